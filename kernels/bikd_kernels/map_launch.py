"""Launch of the anomaly map kernels: tile shapes, packed matrices, and the operator torch.compile and export see."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .layout import arranged, is_channels_last
from .reference.anomaly_map import MapSpec
from .registration import register
from .resample import resample_matrix, windows
from .tiles import device_key

TILE, BLURRED_TILE = (64, 64), (32, 32)  # of the map; of the second launch of a blurred product
REGISTERS = 128  # a thread, for the plainest map kernel on sm_90: four programs fit a multiprocessor instead of three. It spills
# 32 bytes for that (triton 3.8; 48 when it was timed) and is 8 % faster all the same (an H200, ResNet18, batch 32, map and score:
# 36.7 us against 39.9)
CHUNK = 32  # longest side of a window of discrepancies held at once; 64 spills where the blur has its own launch
EPS = 1e-8
PRECISION = "ieee" if torch.version.hip else "tf32x3"  # plain tf32 is off by 6e-4, ieee spills on NVIDIA


class Plan(NamedTuple):
    """One launch of map_kernel: its constants and its packed matrices on the device."""

    levels: tuple[tuple[float, ...], ...]
    total: int
    size: tuple[int, int]
    block: tuple[int, int]
    product: bool
    rows: Tensor
    columns: Tensor
    starts: Tensor

    @property
    def tiles(self) -> int:
        """Tiles of one map."""
        return -(-self.size[0] // self.block[0]) * -(-self.size[1] // self.block[1])


def discrepancy_tiles(channels: int, positions: int, channels_last: bool) -> tuple[int, int]:
    """BLOCK_C, BLOCK_P: 16 elements a thread; in NCHW rows of 64 positions, for two warps, which have little to exchange."""
    if channels_last:
        block_c = min(256, _power(channels))
        return block_c, min(2048 // block_c, _power(positions))
    return min(16, _power(channels)), min(64, _power(positions))


def discrepancy_levels(
    teacher: Sequence[Tensor], student: Sequence[Tensor]
) -> tuple[list[Tensor], list[Tensor], tuple[tuple[int, ...], ...], int]:
    """Dense tensors, LEVELS of discrepancy_kernel, programs an image; many channels take longest and go first."""
    levels: list[tuple[int, ...]] = []
    blocks = 0
    starts = np.cumsum([0, *(t.shape[2] * t.shape[3] for t in teacher)]).tolist()
    order = sorted(range(len(teacher)), key=lambda l: -teacher[l].shape[1])
    for l in order:
        channels, positions = teacher[l].shape[1], teacher[l].shape[2] * teacher[l].shape[3]
        t_last, s_last = is_channels_last(teacher[l]), is_channels_last(student[l])
        block_c, block_p = discrepancy_tiles(channels, positions, t_last and s_last)
        levels.append((channels, positions, starts[l], blocks, t_last, s_last, block_c, block_p))
        blocks += -(-positions // block_p)
    dense = [[arranged(x[l], is_channels_last(x[l])) for l in order] for x in (teacher, student)]
    return dense[0], dense[1], tuple(levels), blocks


@lru_cache(maxsize=64)
def plans(spec: MapSpec, device: torch.device) -> tuple[Plan, ...]:
    """The launches after the discrepancies: one, or two for a product that is blurred."""
    if spec.combine != "product" or spec.sigma == 0:
        return (_plan(spec, spec.sigma, TILE, device),)
    blur = spec._replace(levels=(spec.size,), weights=(1.0,), combine="sum", align_corners=False)
    return _plan(spec, 0.0, TILE, device), _plan(blur, spec.sigma, BLURRED_TILE, device)


def _plan(spec: MapSpec, sigma: float, largest: tuple[int, int], device: torch.device) -> Plan:
    block = (min(largest[0], max(16, _power(spec.size[0]))), min(largest[1], max(16, _power(spec.size[1]))))
    product = spec.combine == "product"
    share = sum(spec.weights) if spec.combine == "mean" else 1.0
    levels, rows, columns, starts = [], [], [], []
    offset = at_row = at_column = at_start = 0
    for (h, w), weight in zip(spec.levels, spec.weights):
        factor = 1.0 if product else weight / share
        a, a_start = windows(
            factor * resample_matrix(h, spec.size[0], sigma, spec.align_corners, spec.padding), block[0], CHUNK
        )
        b, b_start = windows(
            resample_matrix(w, spec.size[1], sigma, spec.align_corners, spec.padding), block[1], CHUNK
        )
        if weight != 0:
            exponent = weight if product else 1.0
            levels.append((h, w, offset, a.shape[2], b.shape[2], at_row, at_column, at_start, at_start + len(a_start),
                           exponent))
            rows.append(a.ravel())
            columns.append(b.transpose(0, 2, 1).ravel())
            starts += [a_start, b_start]
            at_row, at_column, at_start = at_row + a.size, at_column + b.size, at_start + len(a_start) + len(b_start)
        offset += h * w
    packed = [np.concatenate(x) if x else np.zeros(1, np.float32) for x in (rows, columns)]
    first = np.concatenate(starts) if starts else np.zeros(1, np.int32)
    tensors = [torch.from_numpy(x).to(device) for x in (*packed, first)]
    return Plan(tuple(levels), offset, spec.size, block, product, *tensors)


def launch(
    teacher: Sequence[Tensor], student: Sequence[Tensor], spec: MapSpec, score: str, topk: int, return_map: bool
) -> tuple[Tensor, Tensor]:
    """Run the kernels; the map is an empty tensor where return_map is False. Arguments are checked already."""
    from .map_kernels import discrepancy_kernel, map_kernel

    batch, device = teacher[0].shape[0], teacher[0].device
    height, width = spec.size
    maps = torch.empty((batch, height, width) if return_map else (0, height, width), device=device)
    scores = torch.empty((batch,), device=device)
    if batch == 0:
        return maps, scores
    teacher, student, levels, blocks = discrepancy_levels(teacher, student)
    total = sum(h * w for h, w in spec.levels)
    with torch.cuda.device_of(teacher[0]):
        d = torch.empty((batch, total), device=device)
        discrepancy_kernel[(batch * blocks,)](
            tuple(teacher), tuple(student), d, scores, batch, LEVELS=levels, TOTAL=total, START_SCORE=score == "max",
            EPS=EPS, **discrepancy_options(levels),
        )
        *before, last = plans(spec, device)
        for plan in before:
            product = torch.empty((batch, height, width), device=device)
            _run(map_kernel, plan, d, product, scores, True, -1)
            d = product
        if score == "max":
            _run(map_kernel, last, d, maps, scores, return_map, 0)
            return maps, scores
        keep = max(2, _power(min(topk, last.block[0] * last.block[1])))
        candidates = torch.empty((batch, last.tiles * keep), device=device)
        _run(map_kernel, last, d, maps, candidates, return_map, keep)
        return maps, candidates.topk(min(topk, height * width), dim=1).values.mean(dim=1)


def _run(kernel: Any, plan: Plan, d: Tensor, maps: Tensor, scores: Tensor, write: bool, keep: int) -> None:
    constants = map_constants(plan, write, keep)
    kernel[(d.shape[0] * plan.tiles,)](
        d, plan.rows, plan.columns, plan.starts, maps, scores, **constants, **map_options(device_key(d), constants["AHEAD"])
    )


def map_constants(plan: Plan, write: bool, keep: int) -> dict[str, Any]:
    """The constexpr arguments of map_kernel: of a launch, and of the machine code that the tests read."""
    return dict(
        LEVELS=plan.levels, TOTAL=plan.total, H=plan.size[0], W=plan.size[1], BM=plan.block[0], BN=plan.block[1], CHUNK=CHUNK,
        PRODUCT=plan.product, WRITE=write, KEEP=keep, PRECISION=PRECISION, AHEAD=keep == 0 and write and asks_ahead(plan),
    )


def discrepancy_options(levels: Sequence[tuple[int, ...]]) -> dict[str, int]:
    """How discrepancy_kernel is compiled for these LEVELS: two warps where a level is read in NCHW, see discrepancy_tiles."""
    return dict(num_warps=4 if all(level[4] and level[5] for level in levels) else 2)


def map_options(device: str, ahead: bool) -> dict[str, int]:
    """How map_kernel is compiled for a device ("sm_90") with this AHEAD."""
    return dict(num_warps=4, maxnreg=REGISTERS) if ahead and device == "sm_90" else dict(num_warps=4)


def asks_ahead(plan: Plan) -> bool:
    """Whether the windows of all levels have room in registers at once: a plain sum over up to three levels, one window each."""
    whole = all(level[3] <= CHUNK and level[4] <= CHUNK for level in plan.levels)
    even = plan.size[0] % TILE[0] == 0 and plan.size[1] % TILE[1] == 0
    return whole and even and not plan.product and plan.block == TILE and len(plan.levels) <= 3


def _power(n: int) -> int:
    """Smallest power of two >= n."""
    return 1 << (n - 1).bit_length()


def _implementation(
    teacher: list[Tensor], student: list[Tensor], size: list[int], weights: list[float], combine: Any, sigma: float,
    align_corners: bool, padding: str, score: str, topk: int, return_map: bool,
) -> tuple[Tensor, Tensor]:
    levels = tuple((t.shape[2], t.shape[3]) for t in teacher)
    spec = MapSpec(levels, (size[0], size[1]), tuple(weights), combine, sigma, align_corners, padding)
    return launch(teacher, student, spec, score, topk, return_map)


def _shapes(
    teacher: list[Tensor], student: list[Tensor], size: list[int], weights: list[float], combine: Any, sigma: float,
    align_corners: bool, padding: str, score: str, topk: int, return_map: bool,
) -> tuple[Tensor, Tensor]:
    batch, first = teacher[0].shape[0], teacher[0]
    maps = first.new_empty((batch if return_map else 0, size[0], size[1]), dtype=torch.float32)
    return maps, first.new_empty((batch,), dtype=torch.float32)


register(
    "anomaly_map(Tensor[] teacher, Tensor[] student, int[] size, float[] weights, str combine, float sigma, "
    "bool align_corners, str padding, str score, int topk, bool return_map) -> (Tensor, Tensor)",
    _implementation,
    _shapes,
)
