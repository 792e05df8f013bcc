"""Batches of pictures through a detector."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from bikd_fast.models.detector import Detector

BATCH = 8


@dataclass
class Outputs:
    """Maps (N, S, S) and scores (N,), float32 on the CPU."""

    maps: torch.Tensor
    scores: torch.Tensor


Levels = list[torch.Tensor]
Look = Callable[[int, Levels, Levels, Levels], None]  # position of the batch's first picture; backbone, teacher, student


def batches(pictures: torch.Tensor, device: torch.device, batch: int = BATCH) -> Iterator[torch.Tensor]:
    """uint8 (N, 3, S, S) as networks read it: float32 in [0, 1] on ``device``, channels last, up to ``batch`` at a time."""
    for start in range(0, len(pictures), batch):
        yield pictures[start : start + batch].to(device).float().div_(255).contiguous(memory_format=torch.channels_last)


def levels_of(detector: Detector, pictures: torch.Tensor) -> Iterator[tuple[Levels, Levels]]:
    """Teacher's and student's levels of uint8 (N, 3, S, S) pictures, batch by batch."""
    for x in batches(pictures, detector.device):
        yield detector.features(x)


@torch.inference_mode()
def run(
    detector: Detector, pictures: torch.Tensor, batch: int = BATCH, look: Look | None = None, maps: torch.Tensor | None = None
) -> Outputs:
    """Every picture of a uint8 (N, 3, S, S) tensor through the detector, in float32: the numbers do not depend on the batch.

    Args:
        look: is shown the levels of every batch, all three as they are compared.
        maps: (N, S, S) float32 on the CPU to write into, where they are too many to hold; default new memory.
    """
    side = detector.image_size
    maps = torch.empty(len(pictures), side, side) if maps is None else maps
    scores = torch.empty(len(pictures))
    for number, x in enumerate(batches(pictures, detector.device, batch)):
        frozen = detector.backbone(x)
        teacher, student = detector.compared(x, frozen)
        if look is not None:
            look(number * batch, detector.student.targets(frozen), teacher, student)
        anomaly, score = detector.judge(teacher, student)
        here = slice(number * batch, number * batch + len(x))
        maps[here], scores[here] = anomaly.cpu(), score.cpu()
    return Outputs(maps, scores)
