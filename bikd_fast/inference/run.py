"""Evaluation of a whole run folder: every detector on its categories, metrics.json, the table, the report."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from bikd_fast.arguments import load_run
from bikd_fast.data import open_dataset
from bikd_fast.files import write_text
from bikd_fast.inference.diagnostics import of_training
from bikd_fast.inference.evaluation import evaluate_category
from bikd_fast.inference.shares import ALONE, Share
from bikd_fast.metrics import mean_metrics, to_json
from bikd_fast.models.detector import FILE_NAME, Detector, DetectorError
from bikd_fast.report import write_report
from bikd_fast.report.table import metrics_table


def evaluate_run(
    run: Path,
    report: bool = True,
    aupimo: bool = False,
    share: Share = ALONE,
    place: int = 0,
    places: int = 1,
    meet: Callable[[], None] = lambda: None,
) -> dict | None:
    """Measure a run; writes metrics.json, predictions, heat maps and report.html, prints the table.

    Several processes may do so together; every one has to call, and the numbers are those of one process to the bit.

    Args:
        aupimo: also measure AUPIMO (docs/metrics.md) where there are masks.
        share: this process among those that measure one detector together, each its own pictures.
        place, places: or which of how many that measure a detector each, side by side.
        meet: waits until all of those have come here.

    Returns:
        What metrics.json holds; None where another process writes it.

    Raises:
        DetectorError: the folder holds no finished run.
    """
    settings = run / "config.yaml"
    if not settings.is_file():
        raise DetectorError(f"{run}: no config.yaml there. Give the folder of a finished run.")
    config = load_run(settings)
    root = Path(config.data.root) if config.data.root else None
    if root is not None and not root.is_dir():
        below = "" if root.is_absolute() else f" below {Path.cwd()}"
        raise DetectorError(f"{settings}: data.root: {root} is no folder{below}. Write into that file where the pictures are now.")
    categories = open_dataset(config.data.format, root, config.data.category)
    single = len(categories) == 1
    one = single or config.model.shared
    device = "cuda" if torch.cuda.is_available() else "cpu"
    shared = Detector.load(run / FILE_NAME, device) if one else None
    leads = share.first and place == 0
    results = {}
    for category in categories[place::places]:
        if not category.test:
            if share.first:
                print(f"{category.name}: no test pictures, not measured", file=sys.stderr)
            continue
        folder = run if single else run / category.name
        folder.mkdir(exist_ok=True)
        detector = shared if shared is not None else Detector.load(folder, device)
        results[category.name] = evaluate_category(detector, category, config.data, folder, share, aupimo)
        results[category.name]["training"] = of_training(run if one else folder)
    if places > 1:
        results = _together(run, results, place, places, leads, meet)
    if not leads:
        return None
    results = {category.name: results[category.name] for category in categories if category.name in results}
    metrics = {"categories": results, "mean": mean_metrics(list(results.values()))}
    write_text(run / "metrics.json", to_json(metrics))
    print(metrics_table(metrics))
    for promise in _unmet(results):
        print(promise, file=sys.stderr)
    print(f"\nmetrics  {run / 'metrics.json'}")
    if report and config.report:
        print(f"report   {write_report(run)}")
    return metrics


def _unmet(results: Mapping[str, Any]) -> list[str]:
    """A line for each promise of a threshold that falls short of what was wanted, with its detectors."""
    short: dict[str, list[str]] = {}
    for name, result in results.items():
        if result["threshold"].get("met") is False:
            short.setdefault(result["threshold"]["promise"], []).append(name)
    return [f"threshold of {', '.join(names)}: {promise}" for promise, names in short.items()]


def _together(run: Path, results: dict, place: int, places: int, leads: bool, meet: Callable[[], None]) -> dict:
    """The results of all processes, over files of the run folder, which they share; the first process gets them."""
    parts = [run / f".measured-{number}.json" for number in range(places)]
    write_text(parts[place], json.dumps(results))  # with NaN as NaN, floats to the last bit
    meet()
    if not leads:
        return {}
    collected = {name: result for part in parts for name, result in json.loads(part.read_text()).items()}
    for part in parts:
        part.unlink()
    return collected
