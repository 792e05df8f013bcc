"""Tile shapes of the fused kernels, measured on the GPU at hand: which candidate is fastest, and how much the committed ones give
away.

    python benchmarks/tune_tiles.py [--dtypes bf16 fp32] [--shapes resnet18 wide_resnet50] [--out tiles.csv] [--workers 12]

Opt-in: nothing tunes itself at run time, because the tile shape changes the last bits of a loss. Every candidate is one way to
choose tiles for all levels at once, as they are launched together; the one named `rule` is the committed one (tiles.json before
tiles.rule; in rows before c7be5bf always the latter). A row says what it took against a copy of the same bytes in the same
process; candidates whose loss differs from that one's by more than 1e-6 are refused. Compilation runs ahead, in processes of
its own.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from bikd_kernels import tiles
from common import RESULTS, append, environment, time_in_rotation
from kernel_cases import CASES, SHAPES

from kernels import DTYPES, copy_of

COLUMNS = [
    "op", "shape", "batch", "dtype", "layout", "candidate", "y50_us", "percent_of_copy", "times_rule",
    "device", "cores", "threads", "load", "torch", "triton", "commit", "when",
]  # fmt: skip
OPERATORS = {"cosine_discrepancy": "pair", "bidirectional_loss": "objective"}  # names in the tile table
BATCHES = {"cosine_discrepancy": 256, "bidirectional_loss": 64}
Tile = tuple[int, int, int]
COMMITTED = tiles.tile  # before `choose` puts a candidate in its place
Rule = Callable[[int], Tile]  # channels (a power of two) -> BLOCK_C, BLOCK_P, warps


def candidates(operator: str, last: bool, itemsize: int) -> dict[str, Rule]:
    """Ways to choose tiles, by name; the first is the committed one."""
    here = tiles.device_key(torch.empty(0, device="cuda"))
    found: dict[str, Rule] = {"rule": lambda c: COMMITTED(operator, last, itemsize, c, here)}
    if last:
        for elements, warps in itertools.product((512, 1024, 2048, 4096, 8192), (1, 2, 4, 8)):
            if 4 <= elements // (32 * warps) <= (32 if operator == "pair" else 16):
                found[f"{elements} elements, {warps} warps"] = lambda c, e=elements, w=warps: (c, max(1, e // c), w)
        return found
    row = 64 if itemsize <= 2 else 32  # positions of 128 bytes
    if operator == "pair":
        for keep, block_c, warps in itertools.product((0, 4096, 8192), (8, 16, 32, 64), (1, 2, 4)):
            if 8 <= block_c * row // (32 * warps) <= 64:
                found[f"keep {keep}, {block_c} channels, {warps} warps"] = (
                    lambda c, k=keep, b=block_c, w=warps: (c if c * row <= k else min(b, c), row, w)
                )
        return found
    for block_c, warps in itertools.product((4, 8, 16), (1, 2, 4, 8)):
        if 2 <= block_c * row // (32 * warps) <= 8:
            found[f"{block_c} channels, {warps} warps"] = lambda c, b=block_c, w=warps: (b, row, w)
    return found


def choose(rule: Rule) -> None:
    """Make the operators of this process take these tiles."""
    tiles.plan.cache_clear()
    tiles.tile = lambda op, last, size, channels, device: rule(tiles.power_of_two(channels))  # type: ignore[assignment]


def compiled(job: tuple[str, str, str, bool, str]) -> str:
    """Compile a candidate in a process of its own: what it leaves in Triton's cache is found by the measuring process."""
    op, shape, dtype, last, name = job
    choose(candidates(OPERATORS[op], last, DTYPES[dtype].itemsize)[name])
    case = CASES[op](SHAPES[shape], BATCHES[op], DTYPES[dtype], last, "cuda")
    try:
        case.ours(*case.inputs(0))
        torch.cuda.synchronize()
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0][:80]}"
    return ""


def measure(op: str, shape: str, dtype: str, last: bool, failed: dict[Any, str], seconds: float) -> list[dict[str, Any]]:
    """One row a candidate that runs and is right."""
    batch = BATCHES[op]
    case = CASES[op](SHAPES[shape], batch, DTYPES[dtype], last, "cuda")
    inputs = [case.inputs(seed) for seed in range(2)]
    rules = candidates(OPERATORS[op], last, DTYPES[dtype].itemsize)
    choose(rules["rule"])  # a case before may have left its last candidate
    expected = float(case.ours(*inputs[0])[0])
    calls: dict[str, Callable[[int], Any]] = {}
    for name, rule in rules.items():
        if failed.get((op, shape, dtype, last, name)):
            continue

        def call(turn: int, rule: Rule = rule) -> list[torch.Tensor]:
            choose(rule)
            return case.ours(*inputs[turn % 2])

        if abs(float(call(0)[0]) / expected - 1) < 1e-6:
            calls[name] = call
    timed = time_in_rotation(calls | {"copy": copy_of(case.minimal_bytes, "cuda", 2)}, "cuda", 2, seconds)
    copied = timed.pop("copy")[1]
    shared = dict(op=op, shape=shape, batch=batch, dtype=dtype, layout="nhwc" if last else "nchw", **environment("cuda"))
    return [
        dict(shared, candidate=name, y50_us=round(mid, 1), percent_of_copy=round(100 * copied / mid, 1),
             times_rule=round(mid / timed["rule"][1], 3))
        for name, (_, mid, _, _) in sorted(timed.items(), key=lambda item: item[1][1])
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ops", nargs="+", choices=list(BATCHES), default=list(BATCHES))
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--dtypes", nargs="+", choices=list(DTYPES), default=["bf16"])
    parser.add_argument("--layouts", nargs="+", choices=["nhwc", "nchw"], default=["nhwc", "nchw"])
    parser.add_argument("--workers", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=1.0, help="time for each case")
    parser.add_argument("--out", type=Path, default=RESULTS / "tiles_gpu.csv")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("no CUDA GPU here: tiles are measured on one")
    cases = list(itertools.product(options.ops, options.shapes, options.dtypes, [x == "nhwc" for x in options.layouts]))
    jobs = [
        (*case, name) for case in cases
        for name in candidates(OPERATORS[case[0]], case[3], DTYPES[case[2]].itemsize)
    ]  # fmt: skip
    with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as pool:
        failed = {job: said for job, said in zip(jobs, pool.map(compiled, jobs)) if said}
    print(f"{len(jobs)} candidates compiled, {len(failed)} of them do not: {sorted(set(failed.values()))}", flush=True)
    for case in cases:
        rows = measure(*case, failed, options.seconds)
        append(options.out, rows, COLUMNS)
        for row in rows[:3] + [row for row in rows[3:] if row["candidate"] == "rule"]:
            print(f"{row['op']} {row['shape']} {row['dtype']} {row['layout']}  {row['candidate']:<56} {row['y50_us']:>8} us"
                  f"  {row['percent_of_copy']:>5} % of copy  {row['times_rule']} of the committed tiles' time", flush=True)


if __name__ == "__main__":
    main()
