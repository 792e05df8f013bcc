"""The network that is exported: 8-bit pictures in; score, map and, where there are thresholds, label and mask out."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from bikd_fast.exporting.resize import Resize
from bikd_fast.models.detector import Detector

FORMAT = 1


class Exportable(nn.Module):
    """A detector with everything around it inside: scaling, normalisation, map head, score, thresholds.

    ``forward`` takes pictures uint8 (B, H, W, 3), RGB, and returns score (B,) float32, map (B, S, S) float32 and, where the
    detector has thresholds, anomalous (B,) bool and mask (B, S, S) bool.

    Args:
        detector: on the CPU, in eval mode.
        picture_size: (H, W) of the pictures; None for pictures that are resized to the detector's S x S already.
    """

    def __init__(self, detector: Detector, picture_size: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.detector = detector
        size = detector.image_size
        self.picture_size = picture_size or (size, size)
        self.resize = Resize(*self.picture_size, size) if self.picture_size != (size, size) else None
        self.threshold, self.pixel_threshold = detector.threshold.item(), detector.pixel_threshold.item()

    @property
    def outputs(self) -> list[str]:
        """Names of what forward returns."""
        judged = [] if math.isnan(self.threshold) else ["anomalous"]
        return ["score", "map", *judged, *([] if math.isnan(self.pixel_threshold) else ["mask"])]

    def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor, ...]:
        x = pictures.permute(0, 3, 1, 2).float()
        if self.resize is not None:
            x = self.resize(x)
        return self.decide(*self.detector(x / 255))

    def decide(self, anomaly: torch.Tensor, score: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Score and map with what the thresholds make of them."""
        found = [score, anomaly]
        if not math.isnan(self.threshold):
            found.append(score >= self.threshold)
        if not math.isnan(self.pixel_threshold):
            found.append(anomaly >= self.pixel_threshold)
        return tuple(found)


def describe(module: Exportable) -> dict[str, Any]:
    """What somebody who has only the file must know; travels inside it and beside it. Plain JSON."""
    height, width = module.picture_size
    size = module.detector.image_size
    before = f"before: to {size} x {size}, bilinear with antialiasing (Pillow's BILINEAR)"
    about = module.detector.about
    return {
        "format": FORMAT,
        "input": {"name": "pictures", "dtype": "uint8", "shape": ["batch", height, width, 3], "colours": "RGB"},
        "preprocessing": {"scaling and normalisation": "inside", "resize": "inside" if module.resize is not None else before},
        "outputs": {name: _OUTPUTS[name].format(size=size) for name in module.outputs},
        "threshold": None if math.isnan(module.threshold) else module.threshold,
        "pixel_threshold": None if math.isnan(module.pixel_threshold) else module.pixel_threshold,
        "threshold_chosen": about.get("threshold", {}),
        "categories": about.get("categories", []),
        "image_size": size,
        "student": module.detector.model_config.student,
        "teacher": module.detector.model_config.teacher,
        "combine": module.detector.map_config.combine,
    }


_OUTPUTS = {
    "score": "float32 (batch,), higher is more anomalous",
    "map": "float32 (batch, {size}, {size}), the same for each pixel of the resized picture",
    "anomalous": "bool (batch,), score >= threshold",
    "mask": "bool (batch, {size}, {size}), map >= pixel_threshold",
}
