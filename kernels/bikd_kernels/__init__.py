"""Fused Triton operators for teacher-student anomaly detection; needs torch and triton, nothing of bikd_fast."""

from .anomaly_map import anomaly_map
from .bidirectional import bidirectional_loss
from .cosine import cosine_discrepancy
from .regions import region_counts, region_maps
from .simulate import simulate, simulate_at

__all__ = [
    "anomaly_map",
    "bidirectional_loss",
    "cosine_discrepancy",
    "region_counts",
    "region_maps",
    "simulate",
    "simulate_at",
]
