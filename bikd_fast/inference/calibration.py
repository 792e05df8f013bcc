"""What a detector learns from good pictures after training: from those it was trained on how its features scatter, from held-out
ones the weights inside its map and the thresholds."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from bikd_kernels import cosine_discrepancy

from bikd_fast.inference.mixing import SHARES, choose, mixed, parts, reach
from bikd_fast.inference.runner import Levels, batches, levels_of, run
from bikd_fast.metrics.thresholds import threshold_at_false_alarm_rate
from bikd_fast.models.detector import Detector
from bikd_fast.simulation.foreground import evenly

MEASURED = 256  # pictures at most that the Mahalanobis distance is fitted to, and that the map is weighed by
HELD = 2**28  # bytes of their features that are held instead of being computed a second time


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
def mix(detector: Detector, pictures: torch.Tensor, held_out: bool = True) -> tuple[float, float, float, float]:
    """(a, b, c, d) of :attr:`Detector.mix`: brings the parts of the map to one scale on good pictures, in shares of
    :data:`bikd_fast.inference.mixing.SHARES` or, where the map asks for it, chosen ones (recorded in ``about``).

    Args:
        held_out: whether training has not seen the pictures; on others nothing is chosen.
    """
    reaches = [reach(maps) for maps in parts(detector, pictures)]
    shares = SHARES
    if held_out and detector.map_config.shares == "chosen":
        shares = detector.about["shares"] = choose(detector, pictures, reaches)
    return mixed(reaches, shares)


@torch.inference_mode()
def measure_good(detector: Detector, pictures: torch.Tensor) -> None:
    """Fit the Mahalanobis distance, where the detector has one, to the pictures that it was trained on.

    Args:
        pictures: uint8 (N, 3, S, S); :data:`MEASURED` of them, evenly spread, are looked at.
    """
    if detector.mahalanobis is None:
        return
    some = pictures[evenly(len(pictures), MEASURED)]

    def teacher() -> Iterator[Levels]:
        for x in batches(some, detector.device):
            frozen = detector.backbone(x)
            yield detector.adapter.adapt(frozen) if detector.adapter is not None else frozen

    held = list(teacher()) if 4 * detector.backbone.numbers(detector.image_size) * len(some) <= HELD else None
    detector.mahalanobis.fit(teacher if held is None else lambda: held, len(some))


def weigh(detector: Detector, pictures: torch.Tensor, held_out: bool = True) -> bool:
    """Set what the map weighs its channels, levels and parts by from good pictures, uint8 (N, 3, S, S); whether anything was.

    :data:`MEASURED` of them, evenly spread, are looked at: the networks run over them two or three times, for scales that
    gain little from more.
    """
    config = detector.map_config
    pictures = pictures[evenly(len(pictures), MEASURED)]
    if config.calibrate_channels:
        for weights, found in zip(detector.channel_weights(), channel_weights(detector, pictures)):
            weights.copy_(found)
    levels = config.calibrate_levels and config.combine != "product" and len(detector.level_weights) > 1
    if levels:
        detector.level_weights = level_weights(detector, pictures)
    several = detector.head is not None or detector.mahalanobis is not None
    if several:
        detector.mix = mix(detector, pictures, held_out)
    return config.calibrate_channels or levels or several


def calibrate(detector: Detector, pictures: torch.Tensor, trained: torch.Tensor | None = None) -> None:
    """Set weights and both thresholds from held-out good pictures, uint8 (N, 3, S, S); records how in ``about``.

    With no held-out pictures the weights come from some that it was ``trained`` on, where they are given, and there is no
    threshold: the detector ranks pictures but calls none anomalous, and says so.
    """
    if len(pictures) == 0:
        if trained is not None:
            weigh(detector, trained, held_out=False)
        detector.about["threshold"] = {"method": "none", "promise": "No held-out pictures: no threshold was chosen."}
        return
    fitted = weigh(detector, pictures)
    outputs = run(detector, pictures)
    chosen = threshold_at_false_alarm_rate(outputs.scores.numpy(), detector.map_config.false_alarms)
    detector.threshold.fill_(chosen.value)
    highest = outputs.maps.amax((1, 2)).numpy()
    detector.pixel_threshold.fill_(threshold_at_false_alarm_rate(highest, detector.map_config.false_alarms).value)
    about = chosen.to_dict()
    if fitted:  # a promise says under what it holds
        about["promise"] += " The weights inside the map were fitted on the same pictures; that effect is not bounded."
    detector.about["threshold"] = about
