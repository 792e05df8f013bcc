"""Exact, mergeable evaluation of anomaly maps, thresholds with a stated promise, and comparison of runs.

Knows no model and no data set: maps, masks, scores and labels in, plain dicts and dataclasses out.
"""

from bikd_fast.metrics.evaluation import evaluate
from bikd_fast.metrics.export import jsonable, mean_metrics, to_json
from bikd_fast.metrics.streaming import StreamingEvaluation

__all__ = ["StreamingEvaluation", "evaluate", "jsonable", "mean_metrics", "to_json"]
