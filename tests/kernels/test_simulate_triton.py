"""The Triton kernels of simulate against the rule: on a GPU, or under TRITON_INTERPRET=1 (test_interpreter.py starts that)."""

import numpy as np
import pytest
import torch
from bikd_kernels import simulate
from simulate_cases import case, oracle
from triton_tests import DEVICE, NEEDS_TRITON, poisoned  # noqa: F401

pytestmark = NEEDS_TRITON


def check(arguments, **options) -> None:
    corrupted, label = simulate(*arguments, impl="triton", **options)
    expected, expected_label = simulate(*arguments, impl="reference", **options)
    # a change within rounding of the threshold may fall on either side of it
    assert (label != expected_label).float().mean() < 2e-4
    agreed = (label == expected_label).unsqueeze(1).expand_as(corrupted)
    limit = {torch.float32: 1e-6, torch.bfloat16: 2**-7, torch.float16: 2**-10}[arguments[0].dtype]
    assert (corrupted - expected)[agreed].abs().max() <= limit
    outside = ~label.unsqueeze(1).expand_as(corrupted)
    assert torch.equal(corrupted[outside], arguments[0][outside])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("last", [False, True])
def test_storage_types_and_layouts(dtype: torch.dtype, last: bool) -> None:
    arguments = case(batch=2, size=(24, 40), dtype=dtype, last=last, device=DEVICE)
    check(arguments)
    assert simulate(*(x[:1] for x in arguments), impl="triton")[0].stride() == arguments[0][:1].stride()


@pytest.mark.parametrize("size", [(1, 1), (7, 130), (33, 32)])
@pytest.mark.parametrize("channels", [1, 3])
def test_shapes(size: tuple[int, int], channels: int) -> None:
    check(case(batch=2, channels=channels, size=size, device=DEVICE, seed=size[0]))


def test_by_the_rule_itself() -> None:
    arguments = case(batch=1, seed=5, device=DEVICE)
    corrupted, label = simulate(*arguments, impl="triton")
    expected, expected_label = oracle(arguments)
    agreed = label.cpu().numpy() == expected_label
    assert agreed.mean() > 1 - 2e-4
    assert (np.abs(corrupted.cpu().numpy() - expected).max(1)[agreed] < 1e-6).all()


@pytest.mark.parametrize("options", [dict(radius=1, speck=1, full=9), dict(radius=5, speck=30, full=40, visible=0.1)])
def test_options(options: dict) -> None:
    check(case(batch=1, size=(24, 40), device=DEVICE, seed=2), **options)


def test_mixed_types_and_strided_inputs() -> None:
    images, content, depth, opacity, feather = case(batch=1, size=(24, 40), device=DEVICE)
    wide = torch.cat((images, images), 3)[..., : images.shape[3]]
    assert not wide.is_contiguous()
    turned = depth.transpose(1, 2).contiguous().transpose(1, 2)
    a = simulate(wide, content.half(), turned, opacity, feather, impl="triton")
    b = simulate(images, content.half(), depth, opacity, feather, impl="reference")
    assert torch.equal(a[1], b[1])
    assert (a[0] - b[0]).abs().max() < 1e-6


def test_same_bits_every_time_and_empty_batch() -> None:
    arguments = case(batch=1, device=DEVICE)
    for a, b in zip(simulate(*arguments, impl="triton"), simulate(*arguments, impl="triton")):
        assert torch.equal(a, b)
    assert simulate(*(x[:0] for x in arguments), impl="triton")[1].shape == (0, 40, 56)


def test_registered_as_torch_wants_it_and_compiles() -> None:
    arguments = case(batch=1, size=(12, 10), device=DEVICE)
    checks = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    packed = (torch.nan_to_num(arguments[1]), *arguments[2:], 2 / 255, 3, 8, 20)
    torch.library.opcheck(torch.ops.bikd_kernels.simulate.default, (arguments[0], *packed), test_utils=checks)
    compiled = torch.compile(simulate, fullgraph=True, backend="aot_eager")(*arguments, impl="triton")
    for a, b in zip(compiled, simulate(*arguments, impl="triton")):
        assert torch.equal(a, b)
