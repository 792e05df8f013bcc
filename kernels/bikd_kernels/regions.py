"""Where a simulated defect is, where it certainly is not, and the ring between that no loss term looks at."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.library import Library

from .checks import bytes_only, size_pair, tensor
from .dispatch import choose
from .lang import tl, triton

NORMAL, IGNORED, DEFECT = 0, 1, 2
COUNT_PROGRAMS = 64  # one alone takes as long for 262,144 positions as a twentieth of the objective


def region_maps(mask: Tensor, sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
    """Area-pool a defect mask to each feature level and split it into normal, ignored and defect positions.

    mask: (B, H, W) bool or float in [0, 1]. Returns one uint8 (B, h, w) map a size: 0 where the pooled mask is exactly 0
    (N), 2 where it is at least 0.5 (P), 1 in the ring between.
    Raises ValueError if mask is not three-dimensional or sizes are not pairs of whole numbers.
    """
    if tensor("mask", mask).dim() != 3:
        raise ValueError(f"mask must have shape (B, H, W), got {tuple(mask.shape)}")
    if not isinstance(sizes, list | tuple):
        raise ValueError(f"sizes must be a list of (height, width), got {type(sizes).__name__}")
    covered = mask.detach().to(torch.float32).unsqueeze(1)
    maps = []
    for k, size in enumerate(sizes):
        pooled = F.adaptive_avg_pool2d(covered, size_pair(f"sizes[{k}]", size, square=False)).squeeze(1)
        maps.append((pooled > 0).to(torch.uint8) + (pooled >= 0.5).to(torch.uint8))
    return maps


@triton.jit
def count_kernel(REGIONS, SIZES, OUT, L: tl.constexpr, BLOCK: tl.constexpr):
    """Adds to OUT the N and the P positions of level pid(1), which its programs share. Sums of integers: the same in any order."""
    first = tl.program_id(0) * BLOCK
    step = tl.num_programs(0) * BLOCK
    level = tl.program_id(1)
    for k in tl.static_range(L):
        if level == k and first < SIZES[k]:
            normal = tl.zeros([BLOCK], tl.int32)
            defect = normal
            for start in range(first, SIZES[k], step):
                i = start + tl.arange(0, BLOCK)
                region = tl.load(REGIONS[k] + i, mask=i < SIZES[k], other=1)
                normal += (region == 0).to(tl.int32)
                defect += (region == 2).to(tl.int32)
            tl.atomic_add(OUT + 2 * k, tl.sum(normal, axis=0).to(tl.int64))
            tl.atomic_add(OUT + 2 * k + 1, tl.sum(defect, axis=0).to(tl.int64))


library = Library("bikd_kernels", "FRAGMENT")
library.define("region_counts(Tensor[] regions, str impl) -> Tensor")


def _counts(regions, impl):
    if impl != "triton":
        return torch.stack([torch.stack([(r == NORMAL).sum(), (r == DEFECT).sum()]) for r in regions])
    out = torch.zeros(len(regions), 2, dtype=torch.int64, device=regions[0].device)
    dense = tuple(r.contiguous() for r in regions)
    with torch.cuda.device_of(out):
        count_kernel[(COUNT_PROGRAMS, len(dense))](
            dense, tuple(r.numel() for r in dense), out, L=len(dense), BLOCK=4096, num_warps=8)
    return out


library.impl("region_counts", _counts, "CompositeExplicitAutograd")


@torch.library.register_fake("bikd_kernels::region_counts", lib=library)
def _(regions, impl):
    return regions[0].new_empty(len(regions), 2, dtype=torch.int64)


def region_counts(regions: Sequence[Tensor], impl: str = "auto") -> Tensor:
    """int64 (L, 2): how many positions of each level are normal (N) and how many are defect (P). No host sync.

    regions: uint8 (B, H, W) a level, from region_maps; ValueError for another dtype. impl: see bikd_kernels.dispatch.
    """
    bytes_only("regions", regions)
    return torch.ops.bikd_kernels.region_counts(list(regions), choose(impl, regions))
