"""Rows of aot_table.json for every kernel but the pair and the objective: each is compiled as its launch compiles it.

An element is a feature of one tensor (discrepancy, statistics, blend, flat, scale), a pixel (map, simulate, the draw kernels), a
block of pixels (lay_out), a position (count) or a partial sum (sum).
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from aot_build import BYTES, build, lanes, measured, pointers
from bikd_kernels import (
    cosine_statistics,
    draw_defects_kernel,
    lay_out_kernel,
    map_kernels,
    map_launch,
    nuisance_kernel,
    partials,
    regions,
    simulate_kernel,
)
from bikd_kernels.defects import LATTICE, SHUFFLE_GRID
from bikd_kernels.reference.anomaly_map import MapSpec
from bikd_kernels.tiles import tile

Row = dict[str, float]
RESNET18 = ((64, 64, 64), (128, 32, 32), (256, 16, 16))
WIDE_RESNET50 = ((256, 64, 64), (512, 32, 32), (1024, 16, 16))
BACKBONES = {"resnet18": RESNET18, "wide_resnet50": WIDE_RESNET50}
LAYOUTS = {"nchw": (False, False), "channels_last": (True, True), "mixed": (False, True)}

# What launch() is asked for, of a map of 256 pixels from ResNet18's levels unless said otherwise.
MAPS: dict[str, dict[str, Any]] = {
    "plain": dict(), "max only": dict(write=False), "top 100": dict(keep=128), "product": dict(combine="product", part=0),
    "product blurred": dict(combine="product", part=1), "512 px": dict(size=(512, 512), levels=((128, 128), (64, 64))),
    "50 x 33 px": dict(size=(50, 33)),
}
MAP_VARIANTS = (
    *((arch, name) for arch in ("sm_80", "sm_90", "sm_100") for name in ("plain", "product", "product blurred")),
    *(("sm_90", name) for name in ("max only", "512 px", "50 x 33 px", "top 100")),
    ("sm_80", "max only"), ("sm_100", "max only"), ("sm_80", "50 x 33 px"), ("gfx942", "plain"),
)


def compiled_map(
    arch: str, combine: Any = "sum", part: int = -1, write: bool = True, keep: int = 0, size: tuple[int, int] = (256, 256),
    levels: tuple[tuple[int, int], ...] = tuple(s[1:] for s in RESNET18),
) -> Any:
    """map_kernel as launch() compiles it; part: which of its launches."""
    spec = MapSpec(levels, size, (1.0,) * len(levels), combine, 4.0, False, "reflect")
    plans = map_launch.plans(spec, torch.device("cpu"))
    last = plans[part] is plans[-1]
    constants = map_launch.map_constants(plans[part], write if last else True, keep if last else -1)
    constants |= dict(PRECISION="tf32x3" if arch.startswith("sm") else "ieee")
    kinds = dict(D="*fp32", ROWS="*fp32", COLUMNS="*fp32", STARTS="*i32", OUT="*fp32", SCORE="*fp32")
    return build(map_kernels.map_kernel, kinds, constants, arch, **map_launch.map_options(arch, constants["AHEAD"]))


def map_row(arch: str, name: str) -> Row:
    """Of one tile of the map. AssertionError where the kernel takes more shared memory than any GPU gives without being asked."""
    compiled = compiled_map(arch, **MAPS[name])
    assert compiled.metadata.shared <= 48 * 1024
    largest = map_launch.BLURRED_TILE if name == "product blurred" else map_launch.TILE
    return measured(compiled, arch, compiled.metadata.num_warps * lanes(arch), largest[0] * largest[1])


def compiled_discrepancy(arch: str, dtype: str, layout: str, shapes: tuple[tuple[int, int, int], ...]) -> tuple[Any, int]:
    """(compiled as launch() compiles it, elements of one tile of every level)."""
    formats = [torch.channels_last if x else torch.contiguous_format for x in LAYOUTS[layout]]
    teacher, student = ([torch.empty(2, *s).contiguous(memory_format=f) for s in shapes] for f in formats)
    _, _, levels, _ = map_launch.discrepancy_levels(teacher, student)
    kinds = dict(TEACHER=("*" + dtype,) * 3, STUDENT=("*" + dtype,) * 3, OUT="*fp32", SCORE="*fp32", BATCH="i32")
    constants = dict(LEVELS=levels, TOTAL=sum(h * w for _, h, w in shapes), START_SCORE=True, EPS=map_launch.EPS)
    compiled = build(map_kernels.discrepancy_kernel, kinds, constants, arch, **map_launch.discrepancy_options(levels))
    return compiled, sum(level[6] * level[7] for level in levels)


def discrepancy_row(arch: str, dtype: str, layout: str, backbone: str) -> Row:
    compiled, elements = compiled_discrepancy(arch, dtype, layout, BACKBONES[backbone])
    return measured(compiled, arch, compiled.metadata.num_warps * lanes(arch), elements)


def statistics_row(name: str, arch: str, dtype: str, last: bool, channels: int) -> Row:
    """statistics_kernel or blend_kernel of one level with the pair's tile; blend writes both gradients."""
    block_c, block_p, warps = tile("pair", last, BYTES[dtype], channels, arch)
    kernel = getattr(cosine_statistics, f"{name}_kernel")
    constants = dict(C=channels, BLOCK_C=block_c, BLOCK_P=block_p, NHWC=last, EVEN_P=True, GRAD_T=True, GRAD_S=True)
    whole = dict.fromkeys(("HW", "ROWS", "CHANNELS"), "i32")
    kinds = {n: whole.get(n) or {"OUT": "*fp32", "COEFFICIENTS": "*fp32", "eps2": "fp32"}.get(n, f"*{dtype}")
             for n in kernel.arg_names if n not in constants}
    compiled = build(kernel, kinds, constants, arch, pointers(kinds) | set(whole), num_warps=warps)
    return measured(compiled, arch, warps * lanes(arch), block_c * block_p)


def sum_row(name: str, arch: str) -> Row:
    """What surrounds the fused kernels, for three levels: flat statistics, ordered sum, upstream scale, counts of regions."""
    kernel, kinds, constants, warps, elements = {
        "flat": (cosine_statistics.flat_kernel, dict(T="*bf16", S="*bf16", PART="*fp32", size="i32", chunks="i32", stride="i32"),
                 dict(BLOCK=cosine_statistics.FLAT_BLOCK), 4, cosine_statistics.FLAT_BLOCK),
        "sum": (partials.sum_kernel, dict(PART="*fp32", OUT="*fp64", count="i32", stride="i32"), dict(BLOCK=16384), 32, 16384),
        "scale": (partials.scale_kernel, dict(G=("*bf16",) * 3, COUNT=("i32",) * 3, UPSTREAM="*fp32", folds=("fp32",) * 3),
                  dict(L=3, BLOCK=2048), 4, 3 * 2048),
        "count": (regions.count_kernel, dict(REGIONS=("*u8",) * 3, SIZES=("i32",) * 3, OUT="*i64"), dict(L=3, BLOCK=4096), 8,
                  3 * 4096),
    }[name]  # fmt: skip
    aligned = pointers(kinds) | {"size", "count", "stride", "COUNT", "SIZES"} & kinds.keys()
    return measured(build(kernel, kinds, constants, arch, aligned, num_warps=warps), arch, warps * lanes(arch), elements)


def compiled_simulate(name: str, arch: str, dtype: str) -> Any:
    """One kernel for contiguous 3-channel pictures of 256 pixels; pictures and strides are multiples of 16."""
    kernel = getattr(simulate_kernel, name)
    constants = dict(C=3, H=256, W=256, R=3, SPECK=8, FULL=20, BLOCK=simulate_kernel.BLOCK, sx_w=1, sc_w=1, so_w=1)
    others = {"DEPTH": "*fp32", "OPACITY": "*fp32", "FEATHER": "*fp32", "FLAGS": "*u8", "MEDIAN": "*u8", "LABEL": "*i1",
              "visible": "fp32"}
    kinds = {n: others.get(n, "i32" if n.startswith("s") else f"*{dtype}") for n in kernel.arg_names if n not in constants}
    return build(kernel, kinds, constants, arch, set(kinds) - {"visible"})


def simulate_row(name: str, arch: str, dtype: str) -> Row:
    return measured(compiled_simulate(name, arch, dtype), arch, 4 * lanes(arch), simulate_kernel.BLOCK)


DRAW: dict[str, tuple[Any, int, int]] = {  # kernel, warps, elements a program
    "draw_kernel": (draw_defects_kernel.draw_kernel, draw_defects_kernel.WARPS, draw_defects_kernel.TILE ** 2),
    "shift_kernel": (draw_defects_kernel.shift_kernel, draw_defects_kernel.WARPS, draw_defects_kernel.TILE ** 2),
    "lay_out_kernel": (lay_out_kernel.lay_out_kernel, 4, lay_out_kernel.STRETCH),
    "nuisance_kernel": (nuisance_kernel.nuisance_kernel, 4, nuisance_kernel.BLOCK),
}


def compiled_draw(name: str, arch: str) -> Any:
    """One kernel for pictures of 256 pixels, with every source and an object mask."""
    kernel, warps, _ = DRAW[name]
    constants = dict(
        S=256, GRID=SHUFFLE_GRID, COLUMNS=draw_defects_kernel.COLUMNS, LIGHTS=draw_defects_kernel.LIGHTS, TEXTURED=True,
        MASKED=True, TILE=draw_defects_kernel.TILE, C=3, H=256, W=256, BLOCK=nuisance_kernel.BLOCK,
    )  # fmt: skip
    if name == "lay_out_kernel":
        constants |= dict(COLUMNS=lay_out_kernel.COLUMNS, G=64, LATTICE=LATTICE, STRETCH=lay_out_kernel.STRETCH)
    whole = {"ORDER": "*i64", "ROWS": "*i64", "START": "*i64", "COUNTS": "*i32", "POOL": "*u8", "TEXTURES": "*u8",
             "FOREGROUND": "*u8"}
    kinds = {n: whole.get(n, "*fp32" if n.isupper() else "fp32") for n in kernel.arg_names if n not in constants}
    return build(kernel, kinds, constants, arch, pointers(kinds), num_warps=warps)


def draw_row(name: str, arch: str) -> Row:
    _, warps, elements = DRAW[name]
    return measured(compiled_draw(name, arch), arch, warps * lanes(arch), elements)


def variants() -> Iterator[tuple[str, Callable[[], Row]]]:
    """(name, what makes the row)."""
    for arch, name in MAP_VARIANTS:
        yield f"map/{arch}/{name}", partial(map_row, arch, name)
    for dtype in BYTES:
        for layout in LAYOUTS:
            for backbone in BACKBONES:
                yield (f"discrepancy/sm_90/{dtype}/{layout}/{backbone}",
                       partial(discrepancy_row, "sm_90", dtype, layout, backbone))
    for arch in ("sm_80", "sm_100"):
        for dtype, layout in (("bf16", "channels_last"), ("fp32", "nchw"), ("bf16", "mixed")):
            yield (f"discrepancy/{arch}/{dtype}/{layout}/wide_resnet50",
                   partial(discrepancy_row, arch, dtype, layout, "wide_resnet50"))
    for name in ("statistics", "blend"):
        for dtype in ("bf16", "fp32"):
            for last, channels in ((True, 64), (True, 1024), (False, 64)):
                layout = "channels_last" if last else "nchw"
                yield f"{name}/sm_90/{dtype}/{layout}/{channels}", partial(statistics_row, name, "sm_90", dtype, last, channels)
    for name in ("flat", "sum", "scale", "count"):
        yield f"{name}/sm_90", partial(sum_row, name, "sm_90")
    for name in ("changed_kernel", "median_kernel", "blend_kernel"):
        for arch, dtype in (("sm_80", "fp32"), ("sm_90", "bf16"), ("sm_100", "fp32")):
            yield f"simulate {name}/{arch}/{dtype}", partial(simulate_row, name, arch, dtype)
    for name in DRAW:
        for arch in ("sm_80", "sm_90", "sm_100"):
            yield f"{name}/{arch}", partial(draw_row, name, arch)
