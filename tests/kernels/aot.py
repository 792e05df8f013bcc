"""Compile the kernels ahead of time, without a GPU, and read the machine code back: the fused ones here, others in aot_others.py.

`python tests/kernels/aot.py` prints the whole table against aot_table.json and fails on a regression; with --write it
makes the table anew. A row: registers a thread, bytes spilled, narrowest of the loads and stores of 64 bits or more (32: there
is none), which are those of feature tensors,
instructions an element (static; a loop body counts once, for the elements of one turn).
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import aot_others
import triton
from aot_build import BYTES, build, lanes, measured, pointers
from bikd_kernels.bidirectional_kernel import objective_kernel
from bikd_kernels.cosine_kernel import pair_kernel
from bikd_kernels.tiles import parts_of, tile

TABLE = Path(__file__).with_name("aot_table.json")
ARCHITECTURES = ("sm_80", "sm_90", "sm_100", "gfx942")
CHANNELS = {"sm_90": (64, 128, 256, 512, 1024)}
OTHER_CHANNELS = (64, 256, 1024)
TRIOS = {"resnet18": (64, 128, 256), "wide_resnet50": (256, 512, 1024)}
KERNELS: dict[str, Any] = {"pair": pair_kernel, "objective": objective_kernel}
MAPS = {"pair": ("T", "S", "GT", "GS"), "objective": ("E", "F", "S", "R", "G", "H", "GS", "GR", "GG", "GH")}
OTHERS = {"pair": ("W",), "objective": ("REGION",)}
SINGLE = {"INVERSE": "*fp32", "PART": "*fp32", "COUNTS": "*fp32", "BETA": "*fp32", "stride": "i32"}
PER_LEVEL_FLOATS = ("scale", "fold", "per_position", "fold_s", "fold_g")
PER_LEVEL_INTS = ("HW", "ROWS", "CHANNELS", "ENDS")
PAIR = dict(GRAD_T=False, GRAD_S=True, HAS_W=False, DEAD_ZERO=False)
OBJECTIVE = dict(BETA_ON_DEVICE=True, ADAPT=True, GRAD_S=True, GRAD_G=True, DEAD_ZERO=True)
FLAGS = {  # the first word is the operator
    "pair": PAIR, "pair both": PAIR | dict(GRAD_T=True), "pair weighted": PAIR | dict(HAS_W=True), "objective": OBJECTIVE,
    "objective student": OBJECTIVE | dict(GRAD_G=False), "objective unadapted": OBJECTIVE | dict(ADAPT=False, GRAD_G=False),
}
EXTRA = tuple(name for name in FLAGS if " " in name)  # compiled for few shapes: what they add to the plain ones is small


def compile_kernel(name: str, arch: str, dtype: str, last: bool, channels: tuple[int, ...]) -> tuple[Any, int, int]:
    """(compiled, threads, elements of one tile of every level) with the committed tiles, all pointers 16-byte aligned.

    name: of FLAGS.
    """
    operator = name.split()[0]
    kernel = KERNELS[operator]
    levels = len(channels)
    tiles = [tile(operator, last, BYTES[dtype], c, arch) for c in channels]
    warps = max(t[2] for t in tiles)
    constants = FLAGS[name] | dict(
        L=levels, C=channels, BLOCK_C=tuple(t[0] for t in tiles), BLOCK_P=tuple(t[1] for t in tiles),
        NHWC=(last,) * levels, EVEN_P=(True,) * levels)
    if operator == "objective":
        constants |= dict(PTX=arch.startswith("sm_"), TILES=(4 if last else 1,) * levels,
                          PARTS=tuple(parts_of(t, warps, BYTES[dtype], lanes(arch)) if last else 1 for t in tiles))
    kinds: dict[str, Any] = {}
    for n in kernel.arg_names:
        if n in MAPS[operator] or n in OTHERS[operator] or n in PER_LEVEL_INTS or n in PER_LEVEL_FLOATS:
            kind = (f"*{dtype}" if n in MAPS[operator] else {"W": "*fp32", "REGION": "*u8"}.get(n)
                    or ("i32" if n in PER_LEVEL_INTS else "fp32"))
            kinds[n] = (kind,) * levels
        else:
            kinds[n] = SINGLE.get(n, "fp32")
    aligned = pointers(kinds) | set(PER_LEVEL_INTS) - {"ENDS"}
    compiled = build(kernel, kinds, constants, arch, aligned, num_warps=warps)
    return compiled, warps * lanes(arch), sum(t[0] * t[1] for t in tiles)


def fused_row(name: str, arch: str, dtype: str, last: bool, channels: tuple[int, ...]) -> dict[str, float]:
    """The row of a fused kernel."""
    compiled, threads, elements = compile_kernel(name, arch, dtype, last, channels)
    return measured(compiled, arch, threads, elements)


def variants() -> Iterator[tuple[str, Callable[[], dict[str, float]]]]:
    """(name, what makes the row) of the whole table."""
    yield from ((name, partial(fused_row, *arguments)) for name, arguments in fused_variants())
    yield from aot_others.variants()


def fused_variants() -> Iterator[tuple[str, tuple[str, str, str, bool, tuple[int, ...]]]]:
    """(name, arguments of fused_row)."""
    for operator in MAPS:
        for arch in ARCHITECTURES:
            for dtype in BYTES if arch == "sm_90" else ("bf16", "fp32"):
                for last in (True, False):
                    shapes = {str(c): (c,) for c in CHANNELS.get(arch, OTHER_CHANNELS)}
                    if arch == "sm_90" and dtype != "fp16" and (last or operator == "pair"):
                        shapes |= TRIOS
                    for label, channels in shapes.items():
                        layout = "channels_last" if last else "nchw"
                        yield f"{operator}/{arch}/{dtype}/{layout}/{label}", (operator, arch, dtype, last, channels)
    for name in EXTRA:
        for dtype in ("bf16", "fp32"):
            yield f"{name}/sm_90/{dtype}/channels_last/resnet18", (name, "sm_90", dtype, True, TRIOS["resnet18"])
            yield f"{name}/sm_90/{dtype}/nchw/64", (name, "sm_90", dtype, False, (64,))


def regressions(name: str, found: dict[str, float], committed: dict[str, float]) -> list[str]:
    """What is worse than the committed row: 8 registers and 5 % of the instructions are left to compiler versions."""
    worse = []
    if found["spilled"] > committed["spilled"]:
        worse.append(f"{name} spills {found['spilled']} bytes, was {committed['spilled']}")
    if found["registers"] > committed["registers"] + 8:
        worse.append(f"{name} takes {found['registers']} registers, was {committed['registers']}")
    if found["instructions"] > committed["instructions"] * 1.05:
        worse.append(f"{name} takes {found['instructions']} instructions an element, was {committed['instructions']}")
    if found["bits"] < committed["bits"]:
        worse.append(f"{name} loads or stores {found['bits']} bits, was {committed['bits']}")
    return worse


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the table instead of comparing with it")
    parser.add_argument("--only", default="", help="part of a row's name")
    parser.add_argument("--missing", action="store_true", help="only rows that the table lacks")
    options = parser.parse_args()
    old = json.loads(TABLE.read_text())["rows"] if TABLE.exists() else {}
    names = [name for name, _ in variants()]
    new, worse = {name: old[name] for name in names if name in old}, []
    for name, make in variants():
        if options.only in name and not (options.missing and name in old):
            new[name] = make()
            print(name, new[name], flush=True)
            worse += regressions(name, new[name], old[name]) if name in old and not options.write else []
    if options.write:
        lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(value)}" for name in names if (value := new.get(name)))
        TABLE.write_text(f'{{"triton": "{triton.__version__}", "rows": {{\n{lines}\n}}}}\n')
    if worse:
        sys.exit("\n".join(worse))


if __name__ == "__main__":
    main()
