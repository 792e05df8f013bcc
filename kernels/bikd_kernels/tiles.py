"""Tile shapes of the fused kernels, and the split of one launch over all levels.

tiles.json is the committed table, keyed "operator/layout/bytes/channels rounded up to a power of two" with
[BLOCK_C, BLOCK_P, warps]; "any" holds for every GPU, an entry under "sm_90" and the like goes before it. It is committed, not
tuned at run time, because the tile shape changes the last bits of a loss. BIKD_TILES=FILE names another table.
"""

import functools
import itertools
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

PROGRAMS = 2048  # at least, where programs take several tiles
RESIDENT = {"pair": {True: 4096, False: 4096}, "objective": {True: 2048, False: 0}}  # elements a tile may keep


class Plan(NamedTuple):
    """One launch over several levels: tuples with one entry a level, as the kernels take them."""

    hw: tuple[int, ...]
    rows: tuple[int, ...]
    channels: tuple[int, ...]
    ends: tuple[int, ...]
    block_c: tuple[int, ...]
    block_p: tuple[int, ...]
    tiles: tuple[int, ...]
    parts: tuple[int, ...]
    channels_last: tuple[bool, ...]
    even: tuple[bool, ...]
    warps: int


def rule(operator: str, channels_last: bool, itemsize: int, channels: int) -> tuple[int, int, int]:
    """(BLOCK_C, BLOCK_P, warps) for a channel count that is a power of two.

    channels_last: the whole vector stays in registers, 16 (pair; 8 warps, 4 for float32) or 8 (objective, 4 warps) elements a
    thread.
    NCHW: rows of 128 bytes; few channels stay in registers, many are looped over. Two warps (pair): their sums over channels meet
    in shared memory, and the fewer do, the better, although each thread has 32 or 64 elements then.
    """
    if channels_last:
        elements, warps = (1024, 4) if operator == "objective" else (4096, 8) if itemsize <= 2 else (2048, 4)
        if channels <= RESIDENT[operator][True]:
            return channels, max(1, elements // channels), warps
        return elements // 2, 2, warps
    positions = 64 if itemsize <= 2 else 32
    if operator == "objective":
        return (8 if itemsize <= 2 else 16), positions, 4
    resident = channels * positions <= RESIDENT[operator][False]
    return (channels if resident else (2048 if channels < 1024 else 1024) // positions), positions, 2


@functools.cache
def table() -> dict[str, dict[str, list[int]]]:
    """The tile table: BIKD_TILES if set, else the committed one. Raises FileNotFoundError or ValueError naming the file."""
    path = Path(os.environ.get("BIKD_TILES", Path(__file__).with_name("tiles.json")))
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not a tile table: {error}") from error


def power_of_two(n: int) -> int:
    """The smallest power of two >= n."""
    return 1 << max(0, n - 1).bit_length()


@functools.cache
def tile(operator: str, channels_last: bool, itemsize: int, channels: int, device: str) -> tuple[int, int, int]:
    """Tile of one level from the table, or by the rule where the table has no entry."""
    channels = power_of_two(channels)
    key = f"{operator}/{'channels_last' if channels_last else 'nchw'}/{itemsize}/{channels}"
    for section in (device, "any"):
        if key in table().get(section, {}):
            block_c, block_p, warps = table()[section][key]
            return block_c, block_p, warps
    return rule(operator, channels_last, itemsize, channels)


@functools.cache
def plan(operator: str, shapes: tuple[tuple[int, ...], ...], channels_last: tuple[bool, ...], itemsizes: tuple[int, ...],
         device: str) -> Plan:
    """Tiles and program ranges for levels of these (B, C, H, W) shapes; the warps are those of the level that wants most."""
    tiles = [tile(operator, last, size, shape[1], device)
             for shape, last, size in zip(shapes, channels_last, itemsizes)]
    warps, lanes = max(t[2] for t in tiles), 64 if torch.version.hip else 32
    count = [-(-b * h * w // p) if last else b * -(-h * w // p)
             for (b, _, h, w), last, (_, p, _) in zip(shapes, channels_last, tiles)]
    each = [tiles_each(n) if last and operator == "objective" else 1 for n, last in zip(count, channels_last)]
    return Plan(
        hw=tuple(s[2] * s[3] for s in shapes), rows=tuple(s[0] * s[2] * s[3] for s in shapes),
        channels=tuple(s[1] for s in shapes), ends=tuple(itertools.accumulate(n // k for n, k in zip(count, each))),
        block_c=tuple(t[0] for t in tiles), block_p=tuple(t[1] for t in tiles), tiles=tuple(each),
        parts=tuple(parts_of(t, warps, size, lanes) if last else 1 for t, size, last in zip(tiles, itemsizes, channels_last)),
        channels_last=channels_last,
        even=tuple((s[0] * s[2] * s[3] if last else s[2] * s[3]) % t[1] == 0 for s, t, last in zip(shapes, tiles, channels_last)),
        warps=warps,
    )


def parts_of(tile: tuple[int, int, int], warps: int, itemsize: int, lanes: int) -> int:
    """Runs of channels that a thread has of a resident channels_last tile, 16 bytes each: several runs of one position rather than
    one of several, whose sums and weights it would all have to work out. lanes: threads of a warp."""
    block_c, block_p, _ = tile
    run = 16 // itemsize
    return 2 if min(block_c * block_p // (lanes * warps), block_c) >= 2 * run else 1


def tiles_each(total: int) -> int:
    """Tiles that a program takes of `total`: what it does but once (arguments, sums over its positions) weighs less for several,
    but there have to be programs enough to fill any GPU and to even out. It depends on nothing but the shape: so do the bits."""
    return next(n for n in (8, 4, 2, 1) if n == 1 or (total % n == 0 and total // n >= PROGRAMS))


def device_key(x: Tensor) -> str:
    """"sm_90" and the like for the GPU that holds x, "any" elsewhere."""
    if not x.is_cuda or torch.version.hip:
        return "any"
    major, minor = torch.cuda.get_device_capability(x.device)
    return f"sm_{major}{minor}"


def launches(operator: str, layouts: Sequence[bool], tensors: Sequence[Sequence[Tensor]]) -> list[tuple[list[int], Plan]]:
    """(level numbers, plan) of each launch: one for all levels of a layout. tensors: the lists a level's tile loads.

    The objective in NCHW takes a launch a level: three of its bodies in one kernel spill.
    """
    groups = []
    for last in (True, False):
        together = [k for k, layout in enumerate(layouts) if layout == last and tensors[0][k].numel() > 0]
        apart = operator == "objective" and not last
        for levels in [[k] for k in together] if apart else [together] * bool(together):
            shapes = tuple(tuple(tensors[0][k].shape) for k in levels)
            sizes = tuple(max(maps[k].element_size() for maps in tensors) for k in levels)
            groups.append((levels, plan(operator, shapes, (last,) * len(levels), sizes, device_key(tensors[0][0]))))
    return groups


def entries_of(x: Tensor, levels: Sequence[int]) -> Tensor:
    """The entries of these levels along the first axis: a view where they are neighbours, else a copy; without a host sync."""
    first, after = levels[0], levels[0] + len(levels)
    return x[first:after] if list(levels) == list(range(first, after)) else torch.stack([x[k] for k in levels])


def default_table() -> dict[str, dict[str, list[int]]]:
    """The table the rule gives, and what was measured to be faster on a GPU, for writing tiles.json anew."""
    entries = {}
    for operator in RESIDENT:
        for last in (True, False):
            for itemsize in (2, 4):
                for channels in (1 << n for n in range(3, 12)):
                    key = f"{operator}/{'channels_last' if last else 'nchw'}/{itemsize}/{channels}"
                    entries[key] = list(rule(operator, last, itemsize, channels))
    two_warps = {f"objective/channels_last/2/{c}": [c, 1024 // c, 2] for c in (8, 16, 32, 64, 128, 256)}
    return {"sm_90": two_warps, "any": entries}


if __name__ == "__main__":
    sections = []
    for section, entries in default_table().items():
        lines = ",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in entries.items())
        sections.append(f'"{section}": {{\n{lines}\n}}')
    print("{" + ",\n".join(sections) + "}")
