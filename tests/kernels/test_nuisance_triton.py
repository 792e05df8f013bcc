"""The Triton kernel of nuisance: on a GPU, or under TRITON_INTERPRET=1 (test_interpreter.py starts that)."""

import pytest
import torch
from bikd_kernels import nuisance
from nuisance_cases import case, oracle
from triton_tests import DEVICE, NEEDS_TRITON, poisoned  # noqa: F401

pytestmark = NEEDS_TRITON


@pytest.mark.parametrize("size", [(1, 1), (5, 70), (64, 64)])
@pytest.mark.parametrize("channels", [1, 3])
def test_by_the_rule_itself(size: tuple[int, int], channels: int) -> None:
    arguments = case(channels=channels, size=size, device=DEVICE)
    out = nuisance(*arguments, impl="triton")
    assert (out.double().cpu() - oracle(*arguments)).abs().max() < 1e-6
    assert (out - nuisance(*arguments, impl="reference")).abs().max() < 1e-6


def test_strided_pictures_same_bits_and_empty_batch() -> None:
    images, *others = case(size=(16, 24), device=DEVICE)
    out = nuisance(images, *others, impl="triton")
    assert torch.equal(out, nuisance(images, *others, impl="triton"))
    assert torch.equal(out, nuisance(images.contiguous(memory_format=torch.channels_last), *others, impl="triton"))
    bank, start, numbers = others
    assert torch.equal(out[1:2], nuisance(images[1:2], bank, start[1:2], numbers[1:2], impl="triton"))
    assert nuisance(images[:0], bank, start[:0], numbers[:0], impl="triton").shape == (0, 3, 16, 24)


def test_registered_as_torch_wants_it_and_compiles() -> None:
    arguments = case(size=(12, 10), device=DEVICE)
    checks = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    torch.library.opcheck(torch.ops.bikd_kernels.nuisance.default, arguments, test_utils=checks)
    compiled = torch.compile(nuisance, fullgraph=True, backend="aot_eager")(*arguments, impl="triton")
    assert torch.equal(compiled, nuisance(*arguments, impl="triton"))
