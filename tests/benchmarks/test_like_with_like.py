"""The benchmarks compare like with like, and rows go where the pages look for them."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import kernel_cases
import prediction

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


@pytest.mark.parametrize(("device", "name"), [("cpu", "kernels.csv"), ("cuda", "kernels_gpu.csv")])
def test_rows_of_a_gpu_and_of_a_cpu_have_a_table_each(device, name, monkeypatch):
    """docs/kernels.md has a table of either; a row of a GPU among those of a CPU made the CPU's one of the GPU."""
    written = []
    monkeypatch.setattr(kernels, "run_case", lambda *_: [])
    monkeypatch.setattr(kernels, "append", lambda path, *_: written.append(path))
    one = ["--ops", "simulate", "--shapes", "resnet18", "--batches", "2", "--dtypes", "bf16", "--layouts", "nchw"]
    monkeypatch.setattr(sys, "argv", ["kernels.py", "--device", device, *one])
    kernels.main()
    assert written == [kernels.RESULTS / name]


def test_the_bare_network_is_waited_for():
    """On a GPU a call returns before its work is done."""
    waited = []

    class Scores:
        def tolist(self):
            waited.append("scores")

    assert prediction.bare(lambda batch: (None, Scores()), torch.zeros(8, 3, 4, 4), 20) == 16 and waited == ["scores"]
