"""Microbenchmarks of the operators: fused against eager, eager under autocast and torch.compile, and a plain copy.

    python benchmarks/kernels.py [--ops ...] [--shapes ...] [--batches ...] [--dtypes ...] [--layouts ...]
                                 [--providers ...] [--threads N] [--seconds 1] [--out ...]

Rows are appended. All providers of a case run in one process in rotation: compare rows of one case, not of two
machines. A provider whose results are off keeps its errors in the row and gets no speed. On a CPU batches are small.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import RESULTS, append, environment, launches, peak_megabytes, time_in_rotation
from kernel_cases import CASES, SHAPES, Case, detached, with_gradient
from torch import Tensor

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PROVIDERS = ("eager", "eager separable", "eager autocast", "compile", "compile value_and_grad", "ours", "copy")
COLUMNS = [
    "op", "shape", "batch", "dtype", "layout", "provider", "y20_us", "y50_us", "y80_us", "times_ours", "method",
    "peak_mb", "minimal_mb", "gb_per_s", "percent_of_copy", "kernels", "value_error", "other_error", "check", "device",
    "cores", "threads", "load", "torch", "triton", "commit", "when",
]
COLD_BYTES = 256 << 20  # input sets are rotated until they exceed this, several times an L2 cache
# What eager and compiled forms may be off and still count; low-precision storage is theirs to choose.
FOREIGN_LIMITS = {"fp32": (1e-4, 1e-3), "bf16": (5e-2, 1e-1), "fp16": (5e-2, 1e-1)}


def providers_of(case: Case, device: str) -> dict[str, Callable[..., list[Tensor]]]:
    """Every way to compute the case's result; each takes an input set."""
    found: dict[str, Callable[..., list[Tensor]]] = {"eager": case.eager}
    if case.variant:
        found[case.variant[0]] = case.variant[1]

    def autocast(*inputs: Any) -> list[Tensor]:
        with torch.autocast(device, dtype=torch.bfloat16):
            return case.eager(*inputs)

    found["eager autocast"] = autocast
    best = case.variant[1] if case.variant else case.eager
    if case.training is None:
        found["compile"] = torch.compile(best, dynamic=False)
    else:  # the forward is compiled, autograd runs the compiled backward
        loss_of, leaves = case.training
        found["compile"] = with_gradient(torch.compile(loss_of, dynamic=False), leaves)
    if case.value_and_grad is not None:
        whole = torch.compile(case.value_and_grad, dynamic=False)
        # the forms before it have made its inputs leaves; of those it would keep what a second derivative needs
        found["compile value_and_grad"] = lambda *inputs: whole(*detached(list(inputs)))
    found["ours"] = case.ours
    return found


def errors(got: list[Tensor], exact: list[Tensor]) -> tuple[float, float]:
    """Largest relative error of the value and of all other results, each against its largest exact entry."""

    def off(a: Tensor, b: Tensor) -> float:
        a, b = a.detach().double(), b.detach().double()
        return float((a - b).abs().max() / b.abs().max().clamp_min(1e-30))

    return off(got[0], exact[0]), max((off(a, b) for a, b in zip(got[1:], exact[1:], strict=True)), default=0.0)


def copy_of(moved: int, device: str, sets: int) -> Callable[[int], list[Tensor]]:
    """A copy that reads and writes `moved` bytes in all; buffers are rotated as the input sets are, or it would find its own in a
    cache that the operators' do not fit."""
    sources = [torch.empty(moved // 8, dtype=torch.float32, device=device).normal_() for _ in range(sets)]
    targets = [torch.empty_like(source) for source in sources]
    return lambda turn: [targets[turn % sets].copy_(sources[turn % sets])]


def run_case(op: str, shape: str, batch: int, dtype: str, layout: str, options: argparse.Namespace) -> list[dict]:
    """Rows of one operator on one shape."""
    torch._dynamo.reset()
    case = CASES[op](SHAPES[shape], batch, DTYPES[dtype], layout == "nhwc", options.device)
    sets = min(64, max(2, -(-COLD_BYTES // case.minimal_bytes))) if options.device == "cuda" else 2
    inputs = [case.inputs(seed) for seed in range(sets)]
    exact = case.exact(*inputs[0])
    common = dict(op=op, shape=shape, batch=batch, dtype=dtype, layout=layout, **environment(options.device))
    common["minimal_mb"] = round(case.minimal_bytes / 1e6, 2)
    rows: dict[str, dict[str, Any]] = {}
    calls: dict[str, Callable[[int], Any]] = {}
    for name, function in providers_of(case, options.device).items():
        if name not in options.providers:
            continue
        rows[name] = dict(common, provider=name)
        try:
            value, other = errors(function(*inputs[0]), exact)
        except (RuntimeError, torch._dynamo.exc.TorchDynamoException) as error:
            rows[name]["check"] = f"did not run: {type(error).__name__}"
            continue
        limits = case.limits if name == "ours" else FOREIGN_LIMITS["bf16" if name == "eager autocast" else dtype]
        if op == "simulate" and name != "ours":
            limits = (5e-3, 0.0)
        rows[name] |= dict(value_error=f"{value:.1e}", other_error=f"{other:.1e}")
        good = value <= limits[0] and other <= limits[1]
        rows[name]["check"] = "ok" if good else f"failed (allowed {limits[0]:.0e}, {limits[1]:.0e})"
        if good:
            calls[name] = lambda turn, f=function: f(*inputs[turn % sets])
    del exact
    if "copy" in options.providers:
        rows["copy"], calls["copy"] = dict(common, provider="copy", check="ok"), copy_of(case.minimal_bytes, options.device, sets)
    for name, call in calls.items():
        rows[name]["peak_mb"] = round(peak_megabytes(call, options.device), 2)
        rows[name]["kernels"] = launches(call, options.device)
    timed = time_in_rotation(calls, options.device, sets, options.seconds * len(calls))
    for name, (y20, y50, y80, method) in timed.items():
        rows[name] |= dict(y20_us=round(y20, 1), y50_us=round(y50, 1), y80_us=round(y80, 1), method=method,
                           gb_per_s=round(case.minimal_bytes / y50 / 1e3, 2))
        if "ours" in timed:
            rows[name]["times_ours"] = round(y50 / timed["ours"][1], 2)
        if "copy" in timed:
            rows[name]["percent_of_copy"] = round(100 * timed["copy"][1] / y50, 1)
    return list(rows.values())


def main() -> None:
    """Parse, run every case, append its rows as it finishes."""
    gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ops", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--batches", nargs="+", type=int, default=[32, 256] if gpu else [2])
    parser.add_argument("--dtypes", nargs="+", choices=list(DTYPES), default=["bf16", "fp32"])
    parser.add_argument("--layouts", nargs="+", choices=["nchw", "nhwc"], default=["nchw", "nhwc"])
    parser.add_argument("--providers", nargs="+", choices=PROVIDERS, default=list(PROVIDERS))
    parser.add_argument("--seconds", type=float, default=0.2 if gpu else 0.5, help="time for each provider of a case")
    parser.add_argument("--threads", type=int, help="of torch on a CPU; 1 where other work shares the cores")
    parser.add_argument("--device", default="cuda" if gpu else "cpu")
    parser.add_argument("--out", type=Path, help="default results/kernels.csv, of a GPU results/kernels_gpu.csv")
    options = parser.parse_args()
    out = options.out or RESULTS / ("kernels_gpu.csv" if options.device == "cuda" else "kernels.csv")
    if options.threads:
        torch.set_num_threads(options.threads)
    cases = itertools.product(options.ops, options.shapes, options.batches, options.dtypes, options.layouts)
    for op, shape, batch, dtype, layout in cases:
        if op == "simulate" and shape != options.shapes[0]:
            continue  # pictures, whatever the network
        if op == "bidirectional_loss" and gpu:
            batch = min(batch, 64)  # the float64 check of six feature sets must fit too
        try:
            rows = run_case(op, shape, batch, dtype, layout, options)
        except torch.OutOfMemoryError:
            print(f"{op} {shape} B{batch} {dtype} {layout}: not enough memory, no row")
            continue
        append(out, rows, COLUMNS)
        for row in rows:
            speed = f"{row['y50_us']:>12,.0f} us  {row.get('times_ours', '')!s:>6} x ours" if "y50_us" in row else ""
            print(f"{op} {shape} B{batch} {dtype} {layout}  {row['provider']:<24}{speed}  {row['check']}", flush=True)


if __name__ == "__main__":
    main()
