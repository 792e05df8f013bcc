"""Evaluation of a whole run folder: every detector on its categories, metrics.json, the table, the report."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from bikd_fast.arguments import load_run
from bikd_fast.data import open_dataset
from bikd_fast.inference.evaluation import evaluate_category
from bikd_fast.metrics import mean_metrics, to_json
from bikd_fast.models.detector import FILE_NAME, Detector, DetectorError
from bikd_fast.report import write_report
from bikd_fast.report.table import metrics_table


def evaluate_run(run: Path, report: bool = True) -> dict:
    """Measure a run; writes metrics.json, predictions, heat maps and report.html, prints the table.

    Raises:
        DetectorError: the folder holds no finished run.
    """
    settings = run / "config.yaml"
    if not settings.is_file():
        raise DetectorError(f"{run}: no config.yaml there. Give the folder of a finished run.")
    config = load_run(settings)
    root = Path(config.data.root) if config.data.root else None
    categories = open_dataset(config.data.format, root, config.data.category)
    single = len(categories) == 1
    one = single or config.model.shared
    device = "cuda" if torch.cuda.is_available() else "cpu"
    shared = Detector.load(run / FILE_NAME, device) if one else None
    results = {}
    for category in categories:
        if not category.test:
            print(f"{category.name}: no test pictures, not measured", file=sys.stderr)
            continue
        folder = run if single else run / category.name
        folder.mkdir(exist_ok=True)
        detector = shared if shared is not None else Detector.load(folder, device)
        results[category.name] = evaluate_category(detector, category, config.data, folder)
    metrics = {"categories": results, "mean": mean_metrics(list(results.values()))}
    (run / "metrics.json").write_text(to_json(metrics))
    print(metrics_table(metrics))
    print(f"\nmetrics  {run / 'metrics.json'}")
    if report and config.report:
        print(f"report   {write_report(run)}")
    return metrics
