"""What keeping freed memory saves a training on a CPU: page faults and system time a step, with it and as glibc has it by itself.

    python benchmarks/heap.py [--rounds 4] [--steps 30] [any option of `bikd train`]

Each run is a process of its own, in turns; the first ten steps warm up. Whether glibc gives memory back at every step depends on
how the heap happens to lie, so that its rows differ from each other. Rows are appended to
benchmarks/results/heap.csv, and nothing is written unless all runs give the same loss.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path

from common import RESULTS, append, environment, random_pictures

from bikd_fast.arguments import parse_run, run_parser
from bikd_fast.heap import kept
from bikd_fast.training import distributed
from bikd_fast.training.trainer import Trainer

COLUMNS = [
    "heap", "faults_per_step", "system_share", "cpu_ms_per_step", "peak_memory_mb", "loss", "steps", "batch", "options",
    "device", "cores", "threads", "load", "torch", "triton", "commit", "when",
]  # fmt: skip
WARM = 10
HEAPS = ("kept", "glibc")


def one(heap: str, steps: int, passed: list[str]) -> None:
    """Train, and print what the steps after the first ten took."""
    end = ["--training.steps", str(WARM + steps), "--training.checkpoint_seconds", "0", "--resume", "never"]
    config = parse_run(run_parser("heap", ""), [*end, *passed])
    ranks = distributed.start()
    pictures = random_pictures(config)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(config, pictures, [""] * len(pictures), ranks, Path(folder))
        after, seen = trainer._after_step, []

        def noted() -> None:
            if trainer.step in (WARM, WARM + steps):
                seen.append(resource.getrusage(resource.RUSAGE_SELF))
            after()

        trainer._after_step = noted  # type: ignore[method-assign]
        with kept() if heap == "kept" else nullcontext():
            trainer.train()
        loss = json.loads((Path(folder) / "log.jsonl").read_text().splitlines()[-1])["loss"]
    distributed.stop()
    begun, ended = seen
    system, user = ended.ru_stime - begun.ru_stime, ended.ru_utime - begun.ru_utime
    print(json.dumps(dict(
        faults_per_step=round((ended.ru_minflt - begun.ru_minflt) / steps), system_share=round(system / (system + user), 4),
        cpu_ms_per_step=round(1e3 * (system + user) / steps), peak_memory_mb=round(ended.ru_maxrss / 1024),
        loss=loss, steps=steps, batch=config.training.batch_size, options=" ".join(passed),
    )))  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--one", choices=HEAPS, help=argparse.SUPPRESS)
    options, passed = parser.parse_known_args()
    if options.one:
        return one(options.one, options.steps, passed)
    rows = []
    for _ in range(options.rounds):
        for heap in HEAPS:
            words = [sys.executable, __file__, "--one", heap, "--steps", str(options.steps), *passed]
            done = subprocess.run(words, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(done.stderr[-4000:])
            rows.append({"heap": heap, **json.loads(done.stdout.splitlines()[-1])} | environment("cpu"))
            print({key: rows[-1][key] for key in COLUMNS[:6]}, flush=True)
    losses = {row["loss"] for row in rows}
    if len(losses) > 1:
        raise SystemExit(f"the runs' losses differ: {losses}")
    append(RESULTS / "heap.csv", rows, COLUMNS)


if __name__ == "__main__":
    main()
