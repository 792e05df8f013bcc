"""Where the object is: found automatically, believed only where it is plausible, else the whole picture.

The background is what the picture's border looks like; what differs from it and is not reached from the border is the
object. This is believed for a training set only if the border is really background, what was found is solid (a grid of
joints or a weave is not an object), and its area lies between 5 and 95 % and hardly varies from picture to picture. No
list of categories is involved.
"""

import torch
import torch.nn.functional as F
from bikd_kernels.defects import BLOCK
from torch import Tensor

from .random import Numbers, Stream, uniform

AREA = (0.05, 0.95)
BORDER_SHARE = 0.25  # object at the border, relative to object in the whole picture, at most
SOLID_SHARE = 0.35  # of the object's blocks have nothing but object around them, at least
AREA_DEVIATION = 0.3  # at most this standard deviation of the area, relative to its mean
STABLE_SHARE = 0.9  # of the pictures must pass
CHUNK = 64
CENTER, ELSEWHERE = Stream(7, 3), Stream(8, 3)
SAMPLE = 256  # pictures of a set that are looked at to decide


def _fill(candidate: Tensor) -> Tensor:
    """(M, h, h) bool: candidate and whatever it encloses, i.e. what a flood from the border does not reach."""
    outside = F.pad(~candidate, (1, 1, 1, 1), value=True)
    flood = torch.zeros_like(outside)
    flood[:, 0], flood[:, -1], flood[:, :, 0], flood[:, :, -1] = True, True, True, True
    while True:
        wider = (F.max_pool2d(flood.float().unsqueeze(1), 3, stride=1, padding=1).squeeze(1) > 0) & outside
        if torch.equal(wider, flood):
            return ~flood[:, 1:-1, 1:-1]
        flood = wider


def _otsu(values: Tensor, bins: int = 64) -> Tensor:
    """Otsu's threshold of every row of (M, N) values in 0..1, (M, 1)."""
    which = (values * bins).long().clamp(0, bins - 1)
    counts = torch.zeros(len(values), bins, device=values.device).scatter_add_(1, which, torch.ones_like(values))
    p = counts / counts.sum(1, keepdim=True)
    middle = (torch.arange(bins, device=values.device) + 0.5) / bins
    weight, moment = p.cumsum(1), (p * middle).cumsum(1)
    between = (moment[:, -1:] * weight - moment) ** 2 / (weight * (1 - weight)).clamp(min=1e-6)
    return ((between[:, :-1].argmax(1, keepdim=True) + 1) / bins).float()


def _objects(small: Tensor) -> Tensor:
    """(M, h, h) bool object masks of (M, 3, h, h) float pictures in 0..1."""
    m, _, h, w = small.shape
    border = torch.cat((small[:, :, 0], small[:, :, -1], small[:, :, :, 0], small[:, :, :, -1]), dim=2)
    center = border.median(dim=2, keepdim=True).values
    distance = (small.flatten(2) - center).square().sum(1).sqrt()
    top = distance.quantile(0.99, dim=1, keepdim=True).clamp(min=1e-3)
    distance = (distance / top).clamp(max=1)
    candidate = (distance > _otsu(distance)).view(m, h, w)
    smooth = F.avg_pool2d(candidate.float().unsqueeze(1), 3, stride=1, padding=1, count_include_pad=False).squeeze(1)
    return _fill(smooth > 0.5)


def estimate_foreground(pool: Tensor, groups: Tensor | None = None) -> Tensor | None:
    """Object masks (M, S, S) bool of training pictures (M, 3, S, S) uint8, or None if not to be believed.

    Args:
        groups: (M,) int64, which category a picture is of, each believed by itself (where it is not, the whole picture is the
            object); one without.
    """
    trusted = whom_to_trust(pool[evenly(len(pool))], len(pool), groups)
    return masks_where(trusted, pool) if trusted.any() else None


def whom_to_trust(some: Tensor, count: int, groups: Tensor | None = None) -> Tensor:
    """(count,) bool on the host: for which pictures of a set object masks are to be believed, by :func:`believed` of its category.

    Args:
        some: (N, 3, S, S), those at ``evenly(count)``.
        groups: (count,) int64 on the host, which category a picture is of; one without.
    """
    groups = torch.zeros(count, dtype=torch.int64) if groups is None else groups
    shown = groups[evenly(count)]
    members = [some[(shown == group).to(some.device)] for group in range(int(groups.max()) + 1)]
    return torch.tensor([bool(len(those)) and believed(those) for those in members])[groups]


def masks_where(trusted: Tensor, pictures: Tensor) -> Tensor:
    """:func:`object_masks` of pictures (N, 3, S, S), whole pictures where ``trusted`` (N,) bool is False."""
    return object_masks(pictures) | ~trusted.to(pictures.device).view(-1, 1, 1)


def evenly(count: int, most: int = SAMPLE) -> Tensor:
    """Positions (int64) of up to ``most`` pictures of a set of ``count``, spread evenly over it."""
    return torch.linspace(0, count - 1, min(count, most)).long()


def believed(some: Tensor) -> bool:
    """Whether object masks are to be believed in a set of which these are pictures, (N, 3, S, S) uint8."""
    _, area, good = _found(some)
    stable = area.std(correction=0) <= AREA_DEVIATION * area.mean()
    return bool(stable) and float(good.float().mean()) >= STABLE_SHARE


def object_masks(pictures: Tensor) -> Tensor:
    """(N, S, S) bool of (N, 3, S, S) pictures, uint8 or float in 0..1, each by itself."""
    size = pictures.shape[-1]
    grid, _, good = _found(pictures)
    grid = torch.where(good.view(-1, 1, 1), grid, True)  # a picture that fails alone is used whole
    masks = [
        F.interpolate(g.float().unsqueeze(1), size=(size, size), mode="bilinear", align_corners=False).squeeze(1) > 0.5
        for g in grid.split(CHUNK)
    ]
    return torch.cat(masks)


def _found(pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Object grids (N, h, h), their areas (N,) and whether each can be believed (N,) bool."""
    grids = []
    for part in pictures.split(CHUNK):
        grids.append(_objects(F.avg_pool2d(part if part.is_floating_point() else part.float() / 255, BLOCK)))
    grid = torch.cat(grids)
    area = grid.flatten(1).float().mean(1)
    rim = torch.cat((grid[:, 0], grid[:, -1], grid[:, :, 0], grid[:, :, -1]), dim=1).float().mean(1)
    core = (-F.max_pool2d(-grid.float().unsqueeze(1), 3, stride=1, padding=1)).flatten(1).mean(1)
    return grid, area, (area > AREA[0]) & (area < AREA[1]) & (rim < BORDER_SHARE * area) & (core > SOLID_SHARE * area)


def object_grids(foreground: Tensor) -> Tensor:
    """(M, h, h) bool at block centres from (M, S, S) bool."""
    return torch.cat([F.avg_pool2d(f.float().unsqueeze(1), BLOCK).squeeze(1) >= 0.5 for f in foreground.split(CHUNK)])


def seats(grid: Tensor) -> Tensor:
    """Cumulative weights (M, h^2) float32 over the blocks where a defect's centre may lie.

    Two blocks inside the object and three inside the picture where the object is thick enough, else anywhere on it.
    """
    inner = F.pad(grid[:, 3:-3, 3:-3].float(), (3, 3, 3, 3)).unsqueeze(1)
    inner = (-F.max_pool2d(-inner, 5, stride=1, padding=2)).squeeze(1)
    inner = torch.where(inner.flatten(1).amax(1).view(-1, 1, 1) > 0, inner, grid.float())
    return inner.flatten(1).cumsum(1)


def draw_places(keys: Tensor | Numbers, stream: Stream, cumulative: Tensor | None, size: int) -> tuple[Tensor, Tensor]:
    """Random places y, x (B, 1) in pixels: on the object, by cumulative weights (B, h^2), or anywhere off the rim."""
    u = uniform(keys, stream)
    if cumulative is None:
        margin = 0.06 * size
        place = margin + u[:, :2] * (size - 1 - 2 * margin)
        return place[:, :1], place[:, 1:]
    grid = size // BLOCK
    block = torch.searchsorted(cumulative.contiguous(), u[:, 2:] * cumulative[:, -1:], right=True).clamp(max=grid * grid - 1)
    y = (torch.div(block, grid, rounding_mode="floor") + u[:, :1]) * BLOCK
    x = (block % grid + u[:, 1:2]) * BLOCK
    return y - 0.5, x - 0.5
