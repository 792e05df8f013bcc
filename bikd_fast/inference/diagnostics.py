"""Is the method doing what it says? Agreement on good pictures, disagreement on defects, how far the teacher has moved.

None of it chooses anything: a run records it beside its metrics (docs/method.md, "Evidence the method owes").
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from bikd_kernels import cosine_discrepancy, region_maps

from bikd_fast.inference.runner import BATCH
from bikd_fast.models.detector import Detector

if TYPE_CHECKING:
    from bikd_fast.inference.shares import Share

TRAINING = "training.json"  # what a training left beside its detector: seconds, peak_memory_mb, diagnostics
Levels = Sequence[torch.Tensor]


class Gauge:
    """Collects a row a picture from the levels that :func:`bikd_fast.inference.runner.run` shows it.

    Args:
        detector: whose levels they will be.
        masks: one a picture, (H, W) of any size, bool or float, true where it is defective; None for pictures without defects.
    """

    def __init__(self, detector: Detector, masks: Sequence[np.ndarray | torch.Tensor] | None = None) -> None:
        self.masks, self.size = masks, detector.image_size
        self.channels = detector.student.channels if detector.student.compares else ()
        self.learned = detector.adapter is not None
        self.rows: list[np.ndarray] = []

    def __call__(self, start: int, backbone: Levels, teacher: Levels, student: Levels) -> None:
        """Levels of pictures start, start + 1, ..., as they are compared, each [(B, C_k, H_k, W_k)]."""
        if not self.channels:  # a memory compares by distance
            return
        sizes = [(f.shape[-2], f.shape[-1]) for f in teacher]
        regions = region_maps(self._masks(start, len(teacher[0])).to(teacher[0].device), sizes)
        normal, defect = [r == 0 for r in regions], [r == 2 for r in regions]
        now = _distances(teacher, student)
        columns = _sums(now, normal) + _sums(now, defect)
        if self.learned:
            before, drift = _distances(backbone, student), _distances(teacher, backbone)
            columns += _sums(before, normal) + _sums(before, defect) + _sums(drift, normal)
        for levels in (teacher, backbone, student) if self.learned else (teacher, student):
            for level, where in zip(levels, normal):
                unit = F.normalize(level.float(), dim=1) * where.unsqueeze(1)
                columns += [unit.sum((2, 3)), unit.square().sum((1, 2, 3)).unsqueeze(1)]
        self.rows.append(torch.cat([c.double() for c in columns], 1).cpu().numpy())

    def _masks(self, start: int, count: int) -> torch.Tensor:
        if self.masks is None:
            return torch.zeros(count, self.size, self.size)
        size = (self.size, self.size)
        given = [torch.as_tensor(m).float() for m in self.masks[start : start + count]]
        return torch.stack([m if m.shape == size else F.interpolate(m[None, None], size=size, mode="area")[0, 0] for m in given])

    def result(self, share: Share | None = None, places: np.ndarray | None = None) -> dict[str, float]:
        """Means over positions, then over levels; what was not seen is left out.

        normal, defect: d(teacher, student) where pictures are good, and inside defects. normal_backbone, defect_backbone: the same
        for the backbone, the teacher as it was before it learned. drift: d(teacher, backbone) on good positions. spread_teacher,
        spread_backbone, spread_student: root mean square distance of unit features from their mean on good positions; 0 is a
        collapse, 1 is the most there can be.

        Args:
            share: the ranks that saw pictures each; all have to call, and get the same.
            places: (N,) int64, which pictures of the whole set this one saw.
        """
        if not self.channels:
            return {}
        levels, width = len(self.channels), sum(self.channels) + len(self.channels)
        names = ["normal", "defect", *(("normal_backbone", "defect_backbone", "drift") if self.learned else ())]
        spreads = ["teacher", *(["backbone"] if self.learned else []), "student"]
        total = np.concatenate([*self.rows, np.empty((0, 2 * levels * len(names) + width * len(spreads)))])
        if share is not None and places is not None:
            total = share.collect(total, places)
        total = total.sum(0)
        found = {}
        for name, part in zip(names, _cut(total, 2 * levels, len(names))):
            sums, counts = part[:levels], part[levels:]
            if (counts > 0).any():
                found[name] = float(np.mean(sums[counts > 0] / counts[counts > 0]))
        for name, part in zip(spreads, _cut(total[2 * levels * len(names) :], width, len(spreads))):
            each = []
            for channels in self.channels:
                mean, count, part = part[:channels], part[channels], part[channels + 1 :]
                if count > 0:
                    each.append(max(0.0, 1 - float(np.square(mean / count).sum())) ** 0.5)
            if each:
                found[f"spread_{name}"] = float(np.mean(each))
        if not self.learned and found:  # such a teacher is the backbone
            same = {f"{name}_backbone": found[name] for name in ("normal", "defect") if name in found}
            found |= same | {"drift": 0.0, "spread_backbone": found["spread_teacher"]}
        return found


def _cut(values: np.ndarray, width: int, count: int) -> list[np.ndarray]:
    return [values[i * width : (i + 1) * width] for i in range(count)]


def _distances(a: Levels, b: Levels) -> list[torch.Tensor]:
    maps = cosine_discrepancy(list(a), list(b), reduction="none", dead="zero")
    assert isinstance(maps, list)
    return maps


def _sums(distances: Levels, where: Levels) -> list[torch.Tensor]:
    """[(B, L) sums over the positions, (B, L) how many they are]."""
    sums = torch.stack([(d.double() * w).sum((1, 2)) for d, w in zip(distances, where)], 1)
    return [sums, torch.stack([w.sum((1, 2)).double() for w in where], 1)]


@torch.inference_mode()
def measure(detector: Detector, pictures: torch.Tensor, masks: torch.Tensor | None = None) -> dict[str, float]:
    """The figures of :meth:`Gauge.result` for pictures (N, 3, S, S), uint8 or floats in [0, 1], with masks (N, S, S) of defects."""
    gauge = Gauge(detector, None if masks is None else list(masks))
    for start in range(0, len(pictures), BATCH) if gauge.channels else ():
        x = pictures[start : start + BATCH].to(detector.device)
        x = (x.float() / 255 if x.dtype == torch.uint8 else x).contiguous(memory_format=torch.channels_last)
        frozen = detector.backbone(x)
        teacher, student = detector.compared(x, frozen)
        gauge(start, detector.student.targets(frozen), teacher, student)
    return gauge.result()


def of_training(folder: Path) -> dict[str, Any]:
    """What the training of the detector in ``folder`` recorded in :data:`TRAINING`; empty where it did not."""
    try:
        found = json.loads((folder / TRAINING).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
