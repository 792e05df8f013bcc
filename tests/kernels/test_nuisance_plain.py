"""nuisance on the CPU: every way to compute it reads the bank alike, and what does not fit is told."""

import pytest
import torch
from bikd_kernels import nuisance
from nuisance_cases import case, oracle
from torch import Tensor


def banks(bank: Tensor) -> dict[str, Tensor]:
    return {"every second": bank.repeat_interleave(2)[::2], "one number": bank[:1].expand(len(bank)), "from its middle": bank[3:]}


@pytest.mark.parametrize("kind", ["every second", "one number", "from its middle"])
def test_banks_of_any_strides(kind: str) -> None:
    images, bank, start, numbers = case(size=(5, 7))
    bank, start = banks(bank)[kind], start.clamp(max=97)
    expected = oracle(images, bank, start, numbers)
    compiled = torch.compile(nuisance, fullgraph=True, backend="aot_eager")
    for out in (nuisance(images, bank, start, numbers), nuisance(images, bank, start, numbers, impl="reference"),
                compiled(images, bank, start, numbers)):
        assert (out.double() - expected).abs().max() < 1e-6


@pytest.mark.parametrize("impl", ["auto", "reference"])
def test_empty_batch_and_shapes_alone(impl: str) -> None:
    images, bank, start, numbers = case(size=(5, 7))
    assert nuisance(images[:0], bank[:9], start[:0], numbers[:0], impl=impl).shape == (0, 3, 5, 7)
    assert nuisance(*(x.to("meta") for x in (images, bank, start, numbers)), impl=impl).shape == images.shape


@pytest.mark.parametrize("impl", ["auto", "reference"])
@pytest.mark.parametrize(("change", "message"), [
    (dict(start=torch.tensor([0, 0, 0, 101])), r"start must lie in 0\.\.100, .* got \[0, 0, 0, 101\]"),
    (dict(start=torch.tensor([-1, 0, 0, 0])), r"start must lie in 0\.\.100"), (dict(start=torch.zeros(4)), "start must be int64"),
    (dict(start=[0] * 4), "start must be a tensor, got list"), (dict(numbers=0.5), "numbers must be a tensor, got float"),
    (dict(bank=torch.zeros(300, dtype=torch.float64)), "bank must be a row of at least 105 float32 numbers, got torch.float64"),
    (dict(images=torch.rand(0, 3, 5, 7), start=torch.zeros(0), numbers=torch.zeros(0, 4), bank=torch.zeros(9, 9)),
     "bank must be a row of at least 105 float32 numbers"),
], ids=str)  # fmt: skip
def test_wrong_arguments(change: dict, message: str, impl: str) -> None:
    given = dict(zip(("images", "bank", "start", "numbers"), case(size=(5, 7)))) | change
    with pytest.raises(ValueError, match=message):
        nuisance(**given, impl=impl)
