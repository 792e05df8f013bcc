"""One graph for any batch: torch.compile does not run into its limit of recompilations, torch.export leaves the batch open."""

import pytest
import torch
from bikd_kernels import bidirectional_loss, cosine_discrepancy
from fused_cases import maps, objective_inputs
from torch import Tensor, nn

LEVELS = ((8, 5, 5), (20, 3, 3))
BATCHES = range(2, 13)  # more than torch._dynamo.config.recompile_limit


def same(found: Tensor, expected: Tensor, leaves: list[Tensor], dtype: torch.dtype) -> None:
    assert torch.equal(found, expected)
    for a, b in zip(torch.autograd.grad(1000 * found, leaves), torch.autograd.grad(1000 * expected, leaves)):
        torch.testing.assert_close(a, b, rtol=1e-6 if dtype == torch.float32 else 2e-3, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_compiled_for_any_batch(dtype: torch.dtype) -> None:
    """float16 gradients are stored with a factor that depends on the number of positions."""
    torch._dynamo.reset()
    pair = torch.compile(cosine_discrepancy, fullgraph=True, backend="aot_eager")
    objective = torch.compile(lambda inputs: bidirectional_loss(**inputs)[0], fullgraph=True, backend="aot_eager")
    for batch in BATCHES:
        teacher, student = (maps(LEVELS, batch, dtype, seed=k) for k in (0, 1))
        same(pair(teacher, student), cosine_discrepancy(teacher, student), teacher + student, dtype)
        inputs = objective_inputs(LEVELS, batch, (dtype,) * 3)
        leaves = inputs["student_clean"] + inputs["adapter_corrupt"]
        same(objective(inputs), bidirectional_loss(**inputs)[0], leaves, dtype)


@pytest.mark.parametrize("side", [16, 63, 64, 80])
def test_compiled_float16_has_the_factor_of_its_positions(side: int) -> None:
    """Below 4096 positions the factor grows with them, from there on it is the largest."""
    torch._dynamo.reset()
    teacher, student = (maps(((4, side, side),), 1, torch.float16, seed=k) for k in (0, 1))
    pair = torch.compile(cosine_discrepancy, fullgraph=True, backend="aot_eager", dynamic=True)
    same(pair(teacher, student), cosine_discrepancy(teacher, student), teacher + student, torch.float16)


def test_compiled_float64_is_float64() -> None:
    torch._dynamo.reset()
    teacher, student = (maps(LEVELS, dtype=torch.float64, seed=k) for k in (0, 1))
    found = torch.compile(cosine_discrepancy, fullgraph=True, backend="aot_eager")(teacher, student)
    expected = cosine_discrepancy(teacher, student)
    for a, b in zip(torch.autograd.grad(found / 3, student), torch.autograd.grad(expected / 3, student)):
        torch.testing.assert_close(a, b, rtol=1e-14, atol=0)


@pytest.mark.parametrize("reduction", ["mean", "none", "per_scale"])
def test_compiled_with_one_level_and_no_gradient(reduction: str) -> None:
    torch._dynamo.reset()
    teacher, student = ([x.detach() for x in maps(LEVELS[:1], seed=k)] for k in (0, 1))
    compiled = torch.compile(cosine_discrepancy, fullgraph=True, backend="aot_eager")(teacher, student, reduction=reduction)
    expected = cosine_discrepancy(teacher, student, reduction=reduction)
    assert torch.equal(compiled[0], expected[0]) if reduction == "none" else torch.equal(compiled, expected)


def test_exported_for_any_batch() -> None:
    class Loss(nn.Module):
        def forward(self, teacher: list[Tensor], student: list[Tensor]) -> Tensor:
            return cosine_discrepancy(teacher, student)

    def frozen(batch: int) -> tuple[list[Tensor], list[Tensor]]:
        return tuple([x.detach() for x in maps(LEVELS, batch, seed=k)] for k in (0, 1))  # type: ignore[return-value]

    free = [{0: torch.export.Dim("batch")}] * len(LEVELS)
    exported = torch.export.export(Loss(), frozen(4), dynamic_shapes=(free, free)).module()
    assert torch.equal(exported(*frozen(7)), Loss()(*frozen(7)))
