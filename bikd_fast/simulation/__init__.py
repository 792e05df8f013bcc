"""Simulated anomalies: masks, content, foreground, clean-up and nuisance noise, batched on the training device."""

from .config import KindShares, SimulationConfig, SourceShares
from .foreground import estimate_foreground
from .random import sample_keys
from .simulator import Simulated, Simulator

__all__ = [
    "KindShares",
    "Simulated",
    "SimulationConfig",
    "Simulator",
    "SourceShares",
    "estimate_foreground",
    "sample_keys",
]
