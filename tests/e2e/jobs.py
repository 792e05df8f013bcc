"""Real jobs that are killed, cut off and told to stop: starting them, finding their processes, waiting for a sign."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
from tiny import TINY

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
LONG = 5000  # steps: more than any test waits for


def options(root, output, *extra, steps=LONG):
    return [
        *TINY, "--data.format", "mvtec", "--data.root", root, "--data.category", "stripes", "--training.steps", steps,
        "--training.precision", "fp32", "--training.log_every", 1, "--training.checkpoint_seconds", 1, "--output", output,
        "--report", "false", *extra,
    ]  # fmt: skip


def start(words, log: Path, **environment) -> subprocess.Popen:
    env = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1", **environment}
    return subprocess.Popen([str(w) for w in words], cwd=ROOT, env=env, stdout=log.open("w"), stderr=subprocess.STDOUT)


def ranks_of(job: subprocess.Popen) -> list[psutil.Process]:
    """The training processes under a launcher, by rank."""
    found = []
    for process in psutil.Process(job.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            if any(w.endswith("train.py") for w in words[:3]) and "deepspeed.launcher.launch" not in words:
                found.append((int(process.environ()["RANK"]), process))
    return [process for _, process in sorted(found, key=lambda pair: pair[0])]


def lines(run: Path) -> int:
    path = run / "log.jsonl"
    return len(path.read_text().splitlines()) if path.is_file() else 0


def until(what, seconds: float, log: Path) -> float:
    """Seconds until ``what()`` is true."""
    began = time.monotonic()
    while not what():
        assert time.monotonic() - began < seconds, f"nothing after {seconds} s; {log.read_text()[-3000:]}"
        time.sleep(0.2)
    return time.monotonic() - began


def gone(processes) -> bool:
    return not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes)


def end(job: subprocess.Popen) -> None:
    """Whatever a failed test has left running."""
    with contextlib.suppress(psutil.Error):
        for process in [*psutil.Process(job.pid).children(recursive=True), psutil.Process(job.pid)]:
            with contextlib.suppress(psutil.Error):
                process.kill()
