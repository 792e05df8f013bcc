"""What a run looks like: pictures with heat maps, tables, one self-contained HTML page. Knows no model."""

from bikd_fast.report.overlay import draw_overlay, heat_range
from bikd_fast.report.page import write_report
from bikd_fast.report.table import metrics_table

__all__ = ["draw_overlay", "heat_range", "metrics_table", "write_report"]
