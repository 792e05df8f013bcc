"""How good a trained detector is on a validation set: the objective, for several map settings at once; and what is reported."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from bikd_fast.config import MapConfig, RunConfig
from bikd_fast.data import Category, has_masks, load_masks
from bikd_fast.errors import UserError
from bikd_fast.inference.calibration import calibrate
from bikd_fast.inference.evaluation import test_pictures
from bikd_fast.inference.runner import levels_of, run
from bikd_fast.metrics import evaluate
from bikd_fast.models.detector import Detector
from bikd_fast.models.head import smoothing
from bikd_fast.training.kept import NOTHING, Kept
from bikd_fast.validation.made import Validation

METRICS = ("image_auroc", "pixel_auroc", "pixel_ap", "aupro")
TRUE = ("image_auroc", "pixel_auroc", "aupro")  # reported of the test set, never chosen by
SCORE = TRUE  # the objective is their mean, on defects made for it: what a detector is judged by, all three alike
BRANCHES = {"head": 2, "mahalanobis": 1}  # what else makes a map of levels, whatever the map settings: of both networks', or T's


def variants(config: MapConfig, grid: Mapping[str, Sequence[Any]]) -> list[MapConfig]:
    """The map settings to try on one trained detector: ``config`` first, then each value of ``grid`` ({setting: values}) alone."""
    made = [replace(config, **{name: value}) for name, values in grid.items() for value in values]
    return [config, *(m for m in made if m != config)]


def measure(detector: Detector, data: Validation, maps: Sequence[MapConfig], kept: Kept = NOTHING) -> list[dict[str, float]]:
    """:data:`METRICS` of a trained detector for each of ``maps``; networks run once, maps are made anew. Leaves it as it was.

    Maps and masks are compared at half their resolution: a search asks for an order of settings, a hundred times.

    Args:
        kept: where the frozen backbone's features of these pictures may lie already.
    """
    halves = [half for half in (0, 1) if _both(data.masks[data.half == half])]
    if not halves:
        raise UserError("the validation pictures hold no defects, or nothing but defects: neither can be judged by.")
    outputs = _outputs(detector, data.pictures, kept)
    coarse = F.max_pool2d(torch.from_numpy(data.masks).float(), 2).bool().numpy()
    found = [dict.fromkeys(METRICS, 0.0) for _ in maps]
    alike: dict[str, list[int]] = {}
    for place, config in enumerate(maps):  # how a picture's score is made changes nothing about its pixels
        alike.setdefault(repr(asdict(replace(config, score="max", topk=1))), []).append(place)
    for half in halves:
        mine = np.flatnonzero(data.half == half)
        anomalous = np.asarray(coarse[mine].any((1, 2)))
        for places in alike.values():
            judge = _Replay(detector, replace(maps[places[0]], shares="fixed"), *outputs)  # they would be chosen by what judges
            calibrate(judge, _numbers(data.calibration[half]))  # type: ignore[arg-type]
            pixels = run(judge, _numbers(mine)).maps  # type: ignore[arg-type]
            result = evaluate(F.avg_pool2d(pixels, 2).numpy(), coarse[mine], threads=torch.get_num_threads())
            for place in places:
                judge.map_config = maps[place]
                result["image_auroc"] = _auroc(judge.score(pixels).numpy(), anomalous)
                for key in METRICS:
                    found[place][key] += float(result[key]) / len(halves)
    return found


def _both(masks: np.ndarray) -> bool:
    """Whether there are pictures with defects and without."""
    return bool(masks.any() and not masks.any((1, 2)).all())


def _auroc(scores: np.ndarray, anomalous: np.ndarray) -> float:
    """Share of (normal, anomalous) pairs in the right order, ties by half."""
    difference = scores[anomalous][:, None] - scores[~anomalous][None]
    return float((difference > 0).mean() + 0.5 * (difference == 0).mean())


def score(metrics: dict[str, float]) -> float:
    """The objective, in [0, 1], higher is better."""
    return sum(metrics[key] for key in SCORE) / len(SCORE)


Levels = tuple[list[torch.Tensor], list[torch.Tensor]]


@torch.inference_mode()
def _outputs(detector: Detector, pictures: torch.Tensor, kept: Kept) -> tuple[Levels, dict[str, torch.Tensor]]:
    """Of all pictures the teacher's and the student's levels, and what each of :data:`BRANCHES` makes of them."""
    with kept.frozen(detector.backbone):
        pairs = list(levels_of(detector, pictures))
    there = {name: reads for name, reads in BRANCHES.items() if getattr(detector, name, None) is not None}
    branches = {name: torch.cat([getattr(detector, name)(*pair[:reads]) for pair in pairs]) for name, reads in there.items()}
    teacher, student = zip(*pairs)
    return ([torch.cat(level) for level in zip(*teacher)], [torch.cat(level) for level in zip(*student)]), branches


def _numbers(positions: np.ndarray) -> torch.Tensor:
    """Positions as the pictures of a :class:`_Replay`, int32 (N, 1, 1, 1)."""
    return torch.from_numpy(positions).to(torch.int32).view(-1, 1, 1, 1)


class _Replay:
    """A detector whose networks have run: its pictures are positions, :func:`_numbers`, in outputs that are there already.

    Everything else (calibration, maps, scores) is the detector's own code, with other map settings.
    """

    def __init__(self, detector: Detector, config: MapConfig, levels: Levels, branches: Mapping[str, torch.Tensor]) -> None:
        own = copy.copy(detector)
        own._buffers = {name: value if name == "smooth" else _clone(value) for name, value in detector._buffers.items()}
        own.map_config, own.about = config, {}
        own.level_weights = (1.0,) * len(detector.level_weights)
        if "smooth" in own._buffers and config.sigma != detector.map_config.sigma:
            coarse = detector.smooth.shape[1]
            own._buffers["smooth"] = smoothing(coarse, detector.image_size, own.sigma).to(detector.smooth)
        own._modules = {**detector._modules, **{name: _Branch(getattr(detector, name), it) for name, it in branches.items()}}
        self._own, self.levels = own, levels

    def __getattr__(self, name: str) -> Any:
        return getattr(self._own, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("_own", "levels"):
            object.__setattr__(self, name, value)
        else:
            setattr(self._own, name, value)

    def backbone(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [x]

    def compared(self, x: torch.Tensor, frozen: Any) -> Levels:
        return self.features(x)

    def features(self, x: torch.Tensor) -> Levels:
        at = (x.flatten() * 255).round().long()
        teacher, student = [f[at] for f in self.levels[0]], [f[at] for f in self.levels[1]]
        for level in teacher[:1]:
            level.positions = at  # type: ignore[attr-defined]
        return teacher, student


class _Branch(nn.Module):
    """A branch that has run, ``known``: of levels that tell their positions; of others it runs again."""

    def __init__(self, branch: nn.Module, known: torch.Tensor) -> None:
        super().__init__()
        self.branch, self.known = branch, known

    def forward(self, teacher: list[torch.Tensor], *student: list[torch.Tensor]) -> torch.Tensor:
        at = getattr(teacher[0], "positions", None)
        return self.branch(teacher, *student) if at is None else self.known[at]


def _clone(value: torch.Tensor | None) -> torch.Tensor | None:
    return None if value is None else value.clone()


def test_metrics(detector: Detector, category: Category, config: RunConfig) -> dict[str, float]:
    """:data:`TRUE` of the test set as `bikd evaluate` measures them. For reports; nothing is chosen by it."""
    pictures, samples, _, maps = test_pictures(category.test, detector.image_size, config.data)
    outputs = run(detector, pictures, maps=maps)
    if not has_masks(samples):
        masks: list[Any] = [torch.zeros(1, 1, dtype=torch.bool).numpy()] * len(samples)
        labels = [s.label for s in samples]
        result = evaluate([torch.zeros(1, 1).numpy()] * len(samples), masks, scores=outputs.scores.numpy(), labels=labels)
        return {"image_auroc": result["image_auroc"]}
    result = evaluate(
        list(outputs.maps.numpy()),
        load_masks(samples),
        scores=outputs.scores.numpy(),
        labels=[s.label for s in samples],
        threads=torch.get_num_threads(),
    )
    return {key: result[key] for key in TRUE}


@torch.inference_mode()
def milliseconds(detector: Detector, repeats: int = 7) -> float:
    """Median time of one picture through the detector, batch of 1, on its device."""
    x = torch.rand(1, 3, detector.image_size, detector.image_size, device=detector.device)
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        detector(x)[1].item()
        times.append(1000 * (time.perf_counter() - began))
    return sorted(times)[repeats // 2]
