"""In what shares the parts of a detector's map are mixed: fixed ones, or those that defects on held-out good pictures choose.

The best shares differ: objects need the segmentation head, rough surfaces the distance. No test picture is asked, and the defects
are not those that the head learned from (:mod:`bikd_fast.validation.defects`): by those, it would get most of every map.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from bikd_fast.inference.runner import BATCH, levels_of
from bikd_fast.metrics import evaluate
from bikd_fast.models.detector import Detector
from bikd_fast.validation.made import FEWEST, simulated

Shares = tuple[float, float, float]
SHARES: Shares = (1.0, 1.0, 1.5)  # of discrepancy, logits and distance in the map, relative to each other
CANDIDATES: tuple[Shares, ...] = (  # the first of equals is taken
    SHARES, (1.0, 1.0, 1.0), (1.0, 1.0, 3.0), (1.0, 1.0, 0.5), (1.0, 1.0, 6.0), (1.0, 3.0, 1.5), (1.0, 0.3, 1.5), (3.0, 1.0, 1.5),
)  # fmt: skip
CRITERION = ("image_auroc", "pixel_auroc", "aupro")  # their sum
Reach = tuple[float, float] | None


def parts(detector: Detector, pictures: torch.Tensor) -> list[torch.Tensor | None]:
    """Discrepancy, logits and distance of uint8 (N, 3, S, S) pictures, maps (N, S, S) on the host each, None for one it lacks."""
    seen: list[list[torch.Tensor]] = [[], [], []]
    for levels in levels_of(detector, pictures):
        for maps, part in zip(seen, detector.parts(*levels)):
            if part is not None:
                maps.append(part.cpu())
    together: list[torch.Tensor | None] = []
    for maps in seen:
        together.append(torch.cat(maps) if maps else None)
        maps.clear()  # one part at a time is there twice
    return together


def reach(maps: torch.Tensor | None) -> Reach:
    """The median of a part over all pixels of good pictures, and how far a picture's maximum stands above it on the mean."""
    if maps is None:
        return None
    middle = maps.median()
    return middle.item(), (maps.amax((1, 2)).mean() - middle).clamp(min=1e-6).item()


def mixed(reaches: Sequence[Reach], shares: Shares) -> tuple[float, float, float, float]:
    """(a, b, c, d) of :attr:`Detector.mix`: on a good picture each part peaks at about its share, and all together at about 1."""
    whole = sum(share for share, found in zip(shares, reaches) if found is not None)
    scales, shift = [], 0.0
    for share, found in zip(shares, reaches):
        scales.append(0.0 if found is None else share / whole / found[1])
        shift -= 0.0 if found is None else share / whole * found[0] / found[1]
    return scales[0], scales[1], scales[2], shift


@torch.inference_mode()
def choose(detector: Detector, pictures: torch.Tensor, reaches: Sequence[Reach]) -> Shares:
    """Those of :data:`CANDIDATES` under which the detector finds and outlines the made defects best.

    Args:
        pictures: held-out good ones, uint8 (N, 3, S, S); fewer than :data:`FEWEST` choose nothing.
        reaches: of its parts on them.
    """
    if len(pictures) < FEWEST or sum(found is not None for found in reaches) < 2:
        return SHARES
    data = simulated("shares", pictures)
    labels, seen = data.masks.any((1, 2)).astype(int).tolist(), parts(detector, data.pictures)

    def value(shares: Shares) -> float:
        made = [detector.finished(some.to(detector.device)) for some in _together(seen, mixed(reaches, shares)).split(BATCH)]
        anomaly, scores = (torch.cat([part.cpu() for part in parts]).numpy() for parts in zip(*made))
        threads = torch.get_num_threads()
        found = evaluate(list(anomaly), list(data.masks), scores=scores, labels=labels, threads=threads)
        return round(sum(float(found[key]) for key in CRITERION), 6)

    return max(CANDIDATES, key=value)


def _together(seen: Iterable[torch.Tensor | None], mix: Sequence[float]) -> torch.Tensor:
    weighed = [scale * maps for scale, maps in zip(mix, seen) if maps is not None]
    return sum(weighed[1:], weighed[0]) + mix[3]
