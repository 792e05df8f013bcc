"""The search on the embedded job: wall time, overhead, gain over the defaults, and how well the simulated objective ranks settings.

    python benchmarks/search.py search  [--trials 12] [--folder DIR] [options of tune/search.py]     12 trials and the gain
    python benchmarks/search.py ranking [--settings 12] [--folder DIR] [options of `bikd train`]     Spearman's correlation
    python benchmarks/search.py ranking --recorded                                                   the same from the CSV

``search`` appends a row to results/search.csv: seconds of the trials, share of the time not in training steps, gains with their
intervals. ``ranking`` trains settings drawn from the space in full and appends, for each category and for the mean over
categories, Spearman's rank correlation between the objective (no test picture looked at) and each true test metric to
results/search_ranking.csv; every setting's figures go to results/search_settings.csv. An interrupted call goes on where it stopped;
what is in the table is not recorded again, and a folder of another call is refused.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common import device_name
from runs import ROOT, append, commit, read
from scipy.stats import spearmanr

sys.path.insert(0, str(ROOT))
RESULTS = ROOT / "benchmarks/results"
TRUE = ("image_auroc", "pixel_auroc", "aupro")
NOTE = "benchmark.json"  # in the folder: what was asked of it, and whether its rows are in the table


def take(folder: Path, asked: Sequence[str], record: bool = True) -> None:
    """Begin or take up a folder.

    Raises:
        SystemExit: its figures are of another call, which the row would not say, or in the table already.
    """
    found = json.loads((folder / NOTE).read_text()) if (folder / NOTE).is_file() else {"asked": list(asked), "recorded": False}
    if found["asked"] != list(asked):
        raise SystemExit(f"{folder}: was begun with {' '.join(found['asked'])}. Ask for the same, or give another --folder.")
    if record and found["recorded"]:
        raise SystemExit(f"{folder}: is finished and in the table. Give another --folder to measure anew.")
    note(folder, asked, recorded=found["recorded"])


def note(folder: Path, asked: Sequence[str], recorded: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / NOTE).write_text(json.dumps({"asked": list(asked), "recorded": recorded}))


def search(folder: Path, trials: int, passed: Sequence[str]) -> None:
    """Run (or take up) a search and record it."""
    asked = ["--trials", str(trials), *passed]
    take(folder, asked)
    state = folder / "search.json"
    words = ["--resume", str(folder)] if state.is_file() else ["--trials", str(trials), "--output", str(folder), *passed]
    subprocess.run([sys.executable, str(ROOT / "tune/search.py"), *words], check=True, cwd=ROOT)
    from tune.findings import overhead
    from tune.findings import read as read_search

    found = read_search(folder)
    assert found.best is not None
    row: dict[str, Any] = {
        "trials": len(found.rows),
        "finished": sum(r.status == "finished" for r in found.rows),
        "failed": sum(r.status == "failed" for r in found.rows),
        "seconds": round(found.state["seconds"], 1),
        "overhead": overhead(found.state, found.rows),
        "slots": found.state["slots"],
        "best_objective": found.best.score,
        "scheduler": found.state["options"]["scheduler"],
        "searcher": found.state["options"]["searcher"],
        "kept": found.kept,
    }
    for gain in found.gains:
        name = gain.name.replace(" ", "_")
        row |= {f"{name}_default": statistics.fmean(gain.default), f"{name}_gain": gain.mean}
        row |= {f"{name}_low": gain.low, f"{name}_high": gain.high, "gain_seeds": len(gain.differences)}
    append(RESULTS / "search.csv", [row | about()])
    note(folder, asked, recorded=True)
    print(json.dumps(row, indent=1))


def ranking(folder: Path, settings: int, passed: Sequence[str], record: bool = True) -> None:
    """Train settings in full, judge each by the objective and by the test set, correlate."""
    from ray import tune

    from bikd_fast.arguments import parse_run, run_parser
    from bikd_fast.search.measuring import METRICS
    from bikd_fast.search.settings import plain
    from bikd_fast.search.trial import groups_of
    from bikd_fast.search.worker import Worker
    from tune import cluster
    from tune.drive import _fixed
    from tune.records import read_rows
    from tune.space import SPACE, Choice, first_points

    asked = ["--settings", str(settings), *passed]
    config = parse_run(run_parser("benchmarks/search.py", ""), list(passed))
    groups_of(config)
    take(folder, asked, record)
    base, draw = plain(config), random.Random(1)
    points = first_points(SPACE, base, [])
    while len(points) < settings:
        points.append(
            {
                key: draw.choice(entry.values)
                if isinstance(entry, Choice)
                else math.exp(draw.uniform(math.log(entry.low), math.log(entry.high)))
                if entry.log
                else draw.uniform(entry.low, entry.high)
                for key, entry in SPACE.items()
            }
        )
    folder = folder.resolve()
    own, gpus, at_once = cluster.shares(cluster.connect(None, None), None, 1)
    job = {"base": base, "grid": {}, "order": 0, "most": 0, "whole": True, "parts": 0, "labels": None, "test": True}
    job |= {"latency": False, "work": str(folder / "files"), "ranks": 1, "gpus": gpus}
    trainable = tune.with_resources(tune.with_parameters(Worker, job=job), own)
    _fixed(trainable, str(folder / "ray"), "ranking", folder / "results.jsonl", points[:settings], at_once, reuse=True)
    rows = [row.result for row in read_rows(folder / "results.jsonl") if row.status == "finished"]

    def figure(row: dict[str, Any], category: str, key: str, where: str) -> float:
        names = list(row["metrics"]) if category == "mean" else [category]
        return statistics.fmean(row[where][n][key] for n in names)

    single = []
    for number, row in enumerate(rows):
        for category in [*row["metrics"], "mean"]:
            judged_by = {f"validation_{k}": figure(row, category, k, "metrics") for k in METRICS}
            true_by = {f"test_{k}": figure(row, category, k, "test") for k in TRUE}
            single.append({"setting": number, "category": category, **judged_by, **true_by} | about())
    lines = correlate(single)
    if record:
        append(RESULTS / "search_ranking.csv", lines)
        append(RESULTS / "search_settings.csv", single)
        note(folder, asked, recorded=True)


def correlate(single: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row of correlations for each category: of settings' figures, as they stand in results/search_settings.csv."""
    from bikd_fast.search.measuring import SCORE

    lines = []
    for category in dict.fromkeys(row["category"] for row in single):
        mine = [row for row in single if row["category"] == category]
        judged = [statistics.fmean(float(row[f"validation_{key}"]) for key in SCORE) for row in mine]
        line: dict[str, Any] = {"category": category, "settings": len(mine), "objective": " ".join(SCORE)}
        for key in TRUE:
            found = spearmanr(judged, [float(row[f"test_{key}"]) for row in mine])
            line |= {f"spearman_{key}": float(found.statistic), f"p_{key}": float(found.pvalue)}
        lines.append(line | about())
        print(", ".join(f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in line.items()))
    return lines


def about() -> dict[str, Any]:
    """What a row needs to be compared with another."""
    import os
    import platform
    from datetime import date
    from importlib.metadata import version

    import torch

    return {
        "cpus": len(os.sched_getaffinity(0)),
        "device": device_name("cuda" if torch.cuda.is_available() else "cpu") or platform.machine(),
        **{name: version(name) for name in ("torch", "ray")},
        "commit": commit(),
        "date": date.today().isoformat(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("what", choices=("search", "ranking"))
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--settings", type=int, default=12)
    parser.add_argument("--dry", action="store_true", help="ranking: print the correlations, append nothing")
    parser.add_argument("--recorded", action="store_true", help="ranking: of the settings trained last, with today's objective")
    options, passed = parser.parse_known_args()
    if options.what == "search" and (options.dry or options.recorded):
        parser.error("--dry and --recorded are for ranking.")
    folder = options.folder or Path("runs") / f"benchmark-{options.what}"
    if options.what == "search":
        search(folder, options.trials, passed)
    elif options.recorded:
        single = read(RESULTS / "search_settings.csv")
        trained = single[-1]["commit"]
        lines = [line | {"trained": trained} for line in correlate([row for row in single if row["commit"] == trained])]
        if not options.dry:
            append(RESULTS / "search_ranking.csv", lines)
    else:
        ranking(folder, options.settings, passed, record=not options.dry)


if __name__ == "__main__":
    main()
