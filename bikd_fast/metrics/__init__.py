"""Exact, mergeable evaluation of anomaly maps, thresholds with a stated promise, and comparison of runs.

Knows no model and no data set: maps, masks, scores and labels in, plain dicts and dataclasses out.
"""

from bikd_fast.metrics.compare import compare, compare_runs
from bikd_fast.metrics.evaluation import evaluate
from bikd_fast.metrics.export import jsonable, mean_metrics, to_json
from bikd_fast.metrics.streaming import StreamingEvaluation
from bikd_fast.metrics.thresholds import (
    Threshold,
    threshold_at_best_f1,
    threshold_at_false_alarm_rate,
    threshold_at_recall,
)

__all__ = [
    "StreamingEvaluation",
    "Threshold",
    "compare",
    "compare_runs",
    "evaluate",
    "jsonable",
    "mean_metrics",
    "threshold_at_best_f1",
    "threshold_at_false_alarm_rate",
    "threshold_at_recall",
    "to_json",
]
