"""Fused Triton operators for teacher-student anomaly detection; needs torch and triton, nothing of bikd_fast."""

from .anomaly_map import anomaly_map
from .bidirectional import bidirectional_loss
from .cosine import cosine_discrepancy
from .draw_defects import draw_defects
from .lay_out import lay_out
from .nuisance import nuisance
from .regions import region_counts, region_maps
from .simulate import simulate, simulate_at

__all__ = [
    "anomaly_map",
    "bidirectional_loss",
    "cosine_discrepancy",
    "draw_defects",
    "lay_out",
    "nuisance",
    "region_counts",
    "region_maps",
    "simulate",
    "simulate_at",
]
