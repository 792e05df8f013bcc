"""Real Ray clusters of two nodes for tests, and searches on them: started, watched, ended with everything they began."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import subprocess
import sys
import time
import uuid
from pathlib import Path

import psutil
import pytest
import yaml
from tiny import TINY

ROOT = Path(__file__).parents[2]
MARK = "BIKD_TEST_CLUSTER"  # in the environment of everything that a test's cluster starts
LONG = 300  # seconds; far more than anything here takes
SOON = {  # a dead node is noticed within seconds
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_failure_threshold": 3,
}
QUIET = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "passive",
    "BIKD_SEARCH_LOGS": "",
}


def words(root: Path, output: Path, *extra: str, trials: int = 6) -> list[str]:
    """A search of tiny trials over one category: 2 rungs each."""
    return [
        *("--trials", str(trials), "--output", str(output), "--gain-seeds", "0", *TINY, "--data.format", "mvtec"),
        *("--data.root", str(root), "--data.category", "stripes", "--data.holdout", "0.4", "--training.steps", "8"),
        *("--training.precision", "fp32", *extra),
    ]


def start(arguments: list[str], log: Path, folder: Path) -> subprocess.Popen:
    """The search as a user starts it, from a folder that holds nothing of ours."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | QUIET
    command = [sys.executable, str(ROOT / "tune/search.py"), *arguments]
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=log.open("a"), stderr=subprocess.STDOUT)


def whole(arguments: list[str], log: Path, folder: Path) -> None:
    """A search from beginning to end."""
    job = start(arguments, log, folder)
    try:
        assert job.wait(LONG) == 0, log.read_text()[-3000:]
    finally:
        job.kill()


def until(what, seconds: float, log: Path) -> None:
    began = time.monotonic()
    while not what():
        said = log.read_text()[-3000:] if log.is_file() else ""
        assert time.monotonic() - began < seconds, f"nothing after {seconds} s; {said}"
        time.sleep(0.1)


def results(output: Path) -> list[dict]:
    path = output / "results.jsonl"
    found = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return found


def table(output: Path) -> list[dict[str, str]]:
    with (output / "trials.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@contextlib.contextmanager
def everything_ends():
    """No process that was begun inside is left afterwards, Ray's own included, which leave their parents but keep the environment;
    other clusters that run here meanwhile have marks of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(MARK, mark := uuid.uuid4().hex)
        try:
            yield
        finally:
            left = []
            for process in psutil.process_iter():
                with contextlib.suppress(psutil.Error):
                    if process.pid != os.getpid() and process.environ().get(MARK) == mark:
                        left.append(process)
            _, alive = psutil.wait_procs(left, timeout=20)
            for process in alive:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            psutil.wait_procs(alive, timeout=10)


@contextlib.contextmanager
def two_nodes():
    """A cluster of two nodes with one CPU each on this machine; yields (cluster, address, the second node)."""
    from ray.cluster_utils import Cluster

    with everything_ends(), pytest.MonkeyPatch.context() as patch:
        for name, value in QUIET.items():
            patch.setenv(name, value)
        cluster = Cluster()
        try:
            common = dict(num_cpus=1, object_store_memory=80 * 2**20, include_dashboard=False)
            cluster.add_node(**common, _system_config=SOON)
            second = cluster.add_node(**{k: v for k, v in common.items() if k != "include_dashboard"})
            cluster.wait_for_nodes(timeout=60)
            yield cluster, cluster.address, second
        finally:
            cluster.shutdown()


def complete(output, count=6):
    """Every trial has come to its end, once, and what a search leaves is there."""
    rows = table(output)
    assert len(rows) == count and {row["status"] for row in rows} <= {"finished", "stopped", "failed"}, rows
    assert sum(row["best"] == "1" for row in rows) == 1
    best = next(row for row in rows if row["best"] == "1")
    assert best["status"] == "finished" and best["rung"] == best["rungs"] == "2"
    top = [float(row["objective"]) for row in rows if row["rung"] == "2"]
    assert float(best["objective"]) == max(top)
    assert rows[0]["status"] == "finished" and float(rows[0]["objective.beta"]) == 0.3  # the defaults, never stopped
    settings = yaml.safe_load((output / "best.yaml").read_text())
    assert settings["objective"]["beta"] == pytest.approx(float(best["objective.beta"]), rel=0.01)
    assert "<svg" in (output / "search.html").read_text()
    return rows


def some(output, count):
    return sum(r["what"] == "result" for r in results(output)) >= count
