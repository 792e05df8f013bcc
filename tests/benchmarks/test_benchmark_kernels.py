"""The microbenchmarks compare like with like."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import kernel_cases

import kernels


@pytest.mark.parametrize("op", ["cosine_discrepancy", "bidirectional_loss"])
def test_a_compiled_value_and_gradient_keeps_nothing_for_a_second_derivative(op, monkeypatch):
    """The providers before it make the same tensors leaves; a graph of leaves writes what only a second backward pass reads."""
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    case = kernel_cases.CASES[op](((4, 8, 8), (8, 4, 4)), 2, torch.float32, True, "cpu")
    inputs, found = case.inputs(0), kernels.providers_of(case, "cpu")
    expected = found["eager"](*inputs)
    results = found["compile value_and_grad"](*inputs)
    assert not any(x.requires_grad for x in results)
    torch.testing.assert_close(results, expected)
