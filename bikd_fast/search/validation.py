"""The objective: how well a detector finds the search's own defects on good pictures that its training never saw.

Judged are the held-out normals (``data.holdout``) and copies of them with defects of :mod:`bikd_fast.search.defects`; the set is
the same for every trial. Calibration uses held-out normals too, so it is done twice, on either half of them, and each half is
judged by the detector calibrated on the other: no picture, nor any copy of it, is judged by what was fitted on it.
"""

from __future__ import annotations

import copy
import itertools
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from bikd_fast.config import MapConfig
from bikd_fast.errors import UserError
from bikd_fast.inference.calibration import calibrate, levels_of
from bikd_fast.inference.runner import run
from bikd_fast.metrics import evaluate
from bikd_fast.models.detector import Detector
from bikd_fast.models.head import smoothing
from bikd_fast.search.defects import DEFECTS, damage, harmless
from bikd_fast.simulation import estimate_foreground

METRICS = ("image_auroc", "pixel_auroc", "pixel_ap", "aupro")
SCORE = ("image_auroc", "aupro")  # the objective is their mean: finding and outlining count alike
SEED = 7001  # of the validation defects, the same in every search
FEWEST, MOST = 4, 48  # held-out normals needed and used
DEFECTIVE = 24  # defective pictures, about


@dataclass(frozen=True)
class Validation:
    """Labelled pictures of one category.

    Attributes:
        pictures: uint8 (N, 3, S, S).
        masks: bool (N, S, S).
        half: (N,) int64, 0 or 1: which half of the held-out normals a picture comes from.
        normals: for either half, the good pictures of the other one, which calibration may see; uint8 (n, 3, S, S).
        kinds: N names.
    """

    pictures: torch.Tensor
    masks: np.ndarray
    half: np.ndarray
    normals: tuple[torch.Tensor, torch.Tensor]
    kinds: list[str]


def simulated(name: str, held_out: torch.Tensor) -> Validation:
    """The validation set of a category from its held-out normals, uint8 (N, 3, S, S): every one as it is, every one under other
    light, and defects of every kind on some of them, in turn. A pure function of its arguments.

    Raises:
        UserError: fewer than four pictures.
    """
    if len(held_out) < FEWEST:
        raise UserError(
            f"{name}: {len(held_out)} good pictures are held out, and the search judges by at least {FEWEST}. "
            "Raise --data.holdout or add pictures."
        )
    held_out = held_out[:MOST].cpu()
    good = held_out.permute(0, 2, 3, 1).numpy()
    found = estimate_foreground(held_out)
    foreground = None if found is None else found.numpy()
    count, kinds = len(good), list(DEFECTS)
    each = -(-DEFECTIVE // len(kinds))
    pictures, masks = list(good), [np.zeros(good.shape[1:3], bool)] * (2 * count)
    half, names = [i % 2 for i in range(count)] * 2, ["good"] * (2 * count)
    pictures += [harmless(_rng(name, "good", i), good[i]) for i in range(count)]
    for number, (turn, kind) in enumerate(itertools.product(range(each), kinds)):
        i = (number + turn) % count  # every kind goes over the pictures, and over both halves
        rng = _rng(name, kind, turn)
        under = None if foreground is None else foreground[i]
        base = harmless(rng, good[i]) if turn % 2 else good[i]
        damaged, mask = damage(kind, rng, base, good[(i + 2) % count], under)
        pictures.append(damaged)
        masks.append(mask)
        half.append(i % 2)
        names.append(kind)
    stack = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()
    return Validation(stack, np.stack(masks), np.array(half), (held_out[1::2], held_out[0::2]), names)


def labelled(pictures: torch.Tensor, masks: Sequence[np.ndarray], kinds: list[str], held_out: torch.Tensor) -> Validation:
    """A user's own labelled pictures, uint8 (N, 3, S, S), with masks at that size: calibration sees all held-out normals."""
    return Validation(pictures, np.stack(masks), np.zeros(len(pictures), np.int64), (held_out, held_out), kinds)


def _rng(*words: Any) -> np.random.Generator:
    return np.random.default_rng([SEED, *(zlib.crc32(str(word).encode()) for word in words)])


# ------------------------------------------------------------------------------------------------------------- measuring


def variants(config: MapConfig, grid: Mapping[str, Sequence[Any]]) -> list[MapConfig]:
    """The map settings to try on one trained detector: ``config`` first, then each value of ``grid`` ({setting: values}) alone."""
    made = [replace(config, **{name: value}) for name, values in grid.items() for value in values]
    return [config, *(m for m in made if m != config)]


def measure(detector: Detector, data: Validation, maps: Sequence[MapConfig]) -> list[dict[str, float]]:
    """:data:`METRICS` of a trained detector for each of ``maps``; networks run once, maps are made anew. Leaves it as it was.

    Maps and masks are compared at half their resolution: a search asks for an order of settings, a hundred times.
    """
    own, calibration = _levels(detector, data.pictures), [_levels(detector, normals) for normals in data.normals]
    halves = [data.half == half for half in sorted(set(data.half.tolist()))]
    halves = [mine for mine in halves if data.masks[mine].any() and not data.masks[mine].any((1, 2)).all()]
    if not halves:
        raise UserError("the validation pictures hold no defects, or nothing but defects: neither can be judged by.")
    coarse = F.max_pool2d(torch.from_numpy(data.masks).float(), 2).bool().numpy()
    anomalous = np.asarray(coarse.any((1, 2)))
    sides: dict[tuple, dict[str, Any]] = {}
    found: list[dict[str, float]] = []
    for config in maps:
        total = dict.fromkeys(METRICS, 0.0)
        for number, mine in enumerate(halves):
            judge = _Replay(detector, config, calibration[int(data.half[mine][0])])
            calibrate(judge, judge.numbers)  # type: ignore[arg-type]
            judge.levels = own
            outputs = run(judge, torch.from_numpy(np.flatnonzero(mine)).to(torch.uint8).view(-1, 1, 1, 1))  # type: ignore[arg-type]
            side = (config.sigma, config.combine, number)  # how a picture's score is made changes nothing about its pixels
            if side not in sides:
                maps_here = F.avg_pool2d(outputs.maps, 2).numpy()
                sides[side] = evaluate(maps_here, coarse[mine], threads=torch.get_num_threads())
            result = sides[side] | {"image_auroc": _auroc(outputs.scores.numpy(), anomalous[mine])}
            total = {key: total[key] + result[key] / len(halves) for key in METRICS}
        found.append({key: float(value) for key, value in total.items()})
    return found


def _auroc(scores: np.ndarray, anomalous: np.ndarray) -> float:
    """Share of (normal, anomalous) pairs in the right order, ties by half."""
    difference = scores[anomalous][:, None] - scores[~anomalous][None]
    return float((difference > 0).mean() + 0.5 * (difference == 0).mean())


def score(metrics: dict[str, float]) -> float:
    """The objective, in [0, 1], higher is better."""
    return sum(metrics[key] for key in SCORE) / len(SCORE)


Levels = tuple[list[torch.Tensor], list[torch.Tensor]]


@torch.inference_mode()
def _levels(detector: Detector, pictures: torch.Tensor) -> Levels:
    """Teacher's and student's levels of all pictures."""
    teacher, student = zip(*levels_of(detector, pictures))
    return [torch.cat(level) for level in zip(*teacher)], [torch.cat(level) for level in zip(*student)]


class _Replay:
    """A detector whose networks have run: its pictures are numbers, uint8 (N, 1, 1, 1), of levels that are there already.

    Everything else (calibration, maps, scores) is the detector's own code, with other map settings.
    """

    def __init__(self, detector: Detector, config: MapConfig, levels: Levels) -> None:
        own = copy.copy(detector)
        own._buffers = {name: value if name == "smooth" else _clone(value) for name, value in detector._buffers.items()}
        own.map_config, own.about = config, {}
        own.level_weights = (1.0,) * len(detector.level_weights)
        if "smooth" in own._buffers and config.sigma != detector.map_config.sigma:
            coarse = detector.smooth.shape[1]
            own._buffers["smooth"] = smoothing(coarse, detector.image_size, own.sigma).to(detector.smooth)
        self._own, self.levels = own, levels
        self.numbers = torch.arange(len(levels[0][0]), dtype=torch.uint8).view(-1, 1, 1, 1)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._own, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("_own", "levels", "numbers"):
            object.__setattr__(self, name, value)
        else:
            setattr(self._own, name, value)

    def backbone(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [x]

    def compared(self, x: torch.Tensor, frozen: Any) -> Levels:
        return self.features(x)

    def features(self, x: torch.Tensor) -> Levels:
        at = (x.flatten() * 255).round().long()
        return [f[at] for f in self.levels[0]], [f[at] for f in self.levels[1]]


def _clone(value: torch.Tensor | None) -> torch.Tensor | None:
    return None if value is None else value.clone()
