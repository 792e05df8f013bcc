"""Pictures in, decisions out: what :meth:`Detector.predict` does and returns."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from bikd_fast.inference.inputs import InputError, each, square, together, unit
from bikd_fast.inference.pipeline import in_batches

BATCH = 8


class Looker(Protocol):
    """As much of a :class:`bikd_fast.models.detector.Detector` as predicting takes; detectors know this module, not the reverse."""

    image_size: int
    threshold: torch.Tensor
    pixel_threshold: torch.Tensor

    @property
    def device(self) -> torch.device: ...

    def __call__(self, pictures: torch.Tensor, /) -> Any: ...


@dataclass(frozen=True)
class Prediction:
    """What a detector found in N pictures, on the CPU, in the order they were given.

    Attributes:
        scores: (N,) float32, higher is more anomalous.
        maps: (N, S, S) float32, the same per pixel of the square that the detector reads, in units of pixel_threshold.
        labels: (N,) bool, score >= threshold; None where the detector has no threshold.
        masks: (N, S, S) bool, map >= pixel_threshold; None where the detector has none.
        threshold, pixel_threshold: that were applied; NaN for none.
    """

    scores: torch.Tensor
    maps: torch.Tensor
    labels: torch.Tensor | None
    masks: torch.Tensor | None
    threshold: float
    pixel_threshold: float

    def __len__(self) -> int:
        return len(self.scores)


def predict(detector: Looker, images: Any, batch: int = BATCH) -> Prediction:
    """Scores, maps, labels and masks of pictures.

    Args:
        images: one picture, a batch, or an iterable of pictures: paths, Pillow pictures, arrays (H, W, 3) or (N, H, W, 3),
            tensors (3, H, W) or (N, 3, H, W); uint8, uint16, or floats in [0, 1] (see :func:`bikd_fast.inference.inputs.pixels`).
            Each is resized to the detector's square as the training pictures were.
        batch: pictures through the network at a time.

    Raises:
        DataError: a file is no readable picture.
        InputError: something else is no picture.
    """
    size = detector.image_size
    scores, maps = [torch.empty(0)], [torch.empty(0, size, size)]
    for squares in in_batches(each(images), lambda image: square(image, size), batch):
        for anomaly, score in run_batches(detector, squares):
            maps.append(anomaly)
            scores.append(score)
    return judged(detector, torch.cat(scores), torch.cat(maps))


@torch.inference_mode()
def run_batches(detector: Looker, squares: list[torch.Tensor]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Maps (b, S, S) and scores (b,) on the CPU; squares of one dtype that follow each other go through together."""
    start = 0
    for stop in range(1, len(squares) + 1):
        if stop < len(squares) and squares[stop].dtype == squares[start].dtype:
            continue
        anomaly, score = detector(unit(together(squares[start:stop]), detector.device))
        yield anomaly.cpu(), score.cpu()
        start = stop


def judged(detector: Looker, scores: torch.Tensor, maps: torch.Tensor) -> Prediction:
    """Scores and maps with what the detector's thresholds make of them.

    Raises:
        InputError: a score is no number, which no threshold may call normal.
    """
    if bool((lost := torch.isnan(scores)).any()):
        which = int(lost.nonzero()[0])
        raise InputError(f"picture {which}: its score is not a number: the detector is broken. Train again.")
    threshold, pixel = detector.threshold.item(), detector.pixel_threshold.item()
    labels = None if math.isnan(threshold) else scores >= threshold
    masks = None if math.isnan(pixel) else maps >= pixel
    return Prediction(scores, maps, labels, masks, threshold, pixel)
