"""What a training leaves beside its detector: what it cost, and whether the method did what it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from bikd_fast.config import RunConfig
from bikd_fast.inference.diagnostics import measure, of_training
from bikd_fast.models.detector import Detector
from bikd_fast.simulation import Simulator
from bikd_fast.simulation.foreground import evenly
from bikd_fast.training.distributed import Ranks
from bikd_fast.training.log import peak_megabytes

MOST = 32  # held-out pictures looked at afterwards
FEW = 4  # while it trains
SHOWN = ("normal", "drift", "spread_teacher", "spread_student")


class Glance:
    """A look at a few held-out pictures while the training runs; it draws no random numbers and changes nothing.

    Args:
        pictures: uint8 (N, 3, S, S); None or none for no look at all.
    """

    def __init__(self, detector: Detector, pictures: torch.Tensor | None) -> None:
        self.detector = detector
        self.pictures = None if pictures is None or len(pictures) == 0 else pictures[evenly(len(pictures), FEW)]

    def __call__(self) -> dict[str, float]:
        """normal, drift and spreads, as :meth:`bikd_fast.inference.diagnostics.Gauge.result` describes them."""
        if self.pictures is None:
            return {}
        with torch.compiler.set_stance("force_eager"):  # another batch size, without gradients: not worth another compilation
            found = measure(self.detector, self.pictures)
        return {name: found[name] for name in SHOWN if name in found}


def record(begun: int, seconds: float, ranks: Ranks) -> dict[str, Any]:
    """Wall time from pictures in memory to a calibrated detector (null where the training began at a checkpoint), peak memory."""
    return {"seconds": round(seconds, 2) if begun == 0 else None, "peak_memory_mb": peak_megabytes(ranks)}


def pictures_changed(folder: Path, pictures: str) -> bool:
    """Whether the detector in ``folder`` was trained on others than the pictures of this identity; not where it does not say."""
    return of_training(folder).get("pictures") not in (None, pictures)


def diagnose(config: RunConfig, detector: Detector, held_out: torch.Tensor, textures: torch.Tensor | None) -> dict[str, Any]:
    """Diagnostics on held-out good pictures, uint8 (N, 3, S, S), and on the same pictures with one simulated defect each.

    ``held_out`` and ``simulated`` as :meth:`bikd_fast.inference.diagnostics.Gauge.result` describes them; none without pictures.
    """
    if len(held_out) == 0:
        return {}
    some = held_out[evenly(len(held_out), MOST)].to(detector.device)
    index = torch.arange(len(some), device=some.device)
    made = Simulator(config.simulation, some, None, textures)(some.float() / 255, index, index + config.seed * 1_000_003)
    return {"held_out": measure(detector, some), "simulated": measure(detector, made.corrupted, made.mask)}
