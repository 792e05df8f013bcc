"""What a detector learns from held-out good pictures after training: weights of levels and channels, and the thresholds."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from bikd_kernels import cosine_discrepancy

from bikd_fast.inference.runner import BATCH, run
from bikd_fast.metrics.thresholds import threshold_at_false_alarm_rate
from bikd_fast.models.detector import Detector

Levels = list[torch.Tensor]


def levels_of(detector: Detector, pictures: torch.Tensor) -> Iterator[tuple[Levels, Levels]]:
    """Teacher's and student's levels of uint8 (N, 3, S, S) pictures, batch by batch."""
    for start in range(0, len(pictures), BATCH):
        x = pictures[start : start + BATCH].to(detector.device).float().div_(255)
        yield detector.features(x.contiguous(memory_format=torch.channels_last))


@torch.inference_mode()
def level_weights(detector: Detector, pictures: torch.Tensor) -> tuple[float, ...]:
    """Reciprocal of each level's mean discrepancy on uint8 (N, 3, S, S) good pictures, scaled to a mean of 1.

    A level that the student can hardly predict on good pictures would otherwise drown the levels that it predicts well.
    """
    sums = torch.zeros(len(detector.level_weights), dtype=torch.float64)
    for teacher, student in levels_of(detector, pictures):
        if detector.map_config.calibrate_channels:
            teacher, student = detector.weighted(teacher), detector.weighted(student)
        maps = cosine_discrepancy(teacher, student, reduction="none", dead="zero")
        sums += torch.stack([m.double().mean((1, 2)).sum().cpu() for m in maps])
    weights = len(pictures) / sums.clamp(min=1e-12)
    return tuple((weights / weights.mean()).tolist())


@torch.inference_mode()
def channel_weights(detector: Detector, pictures: torch.Tensor) -> list[torch.Tensor]:
    """(C_k,) a level: reciprocal of the mean square of t - s, both of length one, on good pictures, scaled to a mean of 1.

    Inverse variance, as of independent measurements: what the student cannot predict of good pictures says little about defects.
    The mean square has a tenth of its mean over the channels added, so that a channel that is nearly always zero (a dead one, which
    anything predicts) does not take all the weight.
    """
    sums = [torch.zeros(count, dtype=torch.float64) for count in detector.student.channels]
    for teacher, student in levels_of(detector, pictures):
        for total, t, s in zip(sums, teacher, student):
            residual = F.normalize(t.float(), dim=1) - F.normalize(s.float(), dim=1)
            total += residual.square().mean((2, 3)).sum(0).double().cpu()
    weights = [1 / (total + 0.1 * total.mean()).clamp(min=1e-12) for total in sums]
    return [(w / w.mean()).float() for w in weights]


@torch.inference_mode()
def mix(detector: Detector, pictures: torch.Tensor) -> tuple[float, float, float]:
    """(a, b, c) that bring discrepancy and logits to one scale on good pictures, half each, and their sum to 1.

    Each map is shifted by its median over all good pixels and divided by how far a good picture's maximum stands above it:
    on a good picture either half then peaks at about one half.
    """
    parts: tuple[list[torch.Tensor], list[torch.Tensor]] = ([], [])
    for teacher, student in levels_of(detector, pictures):
        parts[0].append(detector.discrepancy(teacher, student)[0].cpu())
        parts[1].append(detector.logits(teacher, student).cpu())
    scale, shift = [], 0.0
    for maps in map(torch.cat, parts):
        middle = maps.median()
        reach = (maps.amax((1, 2)).mean() - middle).clamp(min=1e-6)
        scale.append(0.5 / reach.item())
        shift -= (0.5 * middle / reach).item()
    return scale[0], scale[1], shift


def calibrate(detector: Detector, pictures: torch.Tensor) -> None:
    """Set weights and both thresholds from held-out good pictures, uint8 (N, 3, S, S); records how in ``about``.

    With no held-out pictures nothing is set: the detector ranks pictures but calls none anomalous, and says so.
    """
    if len(pictures) == 0:
        detector.about["threshold"] = {"method": "none", "promise": "No held-out pictures: no threshold was chosen."}
        return
    config, fitted = detector.map_config, detector.head is not None
    if config.calibrate_channels:
        for weights, found in zip(detector.channel_weights(), channel_weights(detector, pictures)):
            weights.copy_(found)
        fitted = True
    if config.calibrate_levels and config.combine != "product" and len(detector.level_weights) > 1:
        detector.level_weights = level_weights(detector, pictures)
        fitted = True
    if detector.head is not None:
        detector.mix = mix(detector, pictures)
    outputs = run(detector, pictures)
    chosen = threshold_at_false_alarm_rate(outputs.scores.numpy(), config.false_alarms)
    detector.threshold.fill_(chosen.value)
    highest = outputs.maps.amax((1, 2)).numpy()
    detector.pixel_threshold.fill_(threshold_at_false_alarm_rate(highest, config.false_alarms).value)
    about = chosen.to_dict()
    if fitted:  # a promise says under what it holds
        about["promise"] += " The weights inside the map were fitted on the same pictures; that effect is not bounded."
    detector.about["threshold"] = about
