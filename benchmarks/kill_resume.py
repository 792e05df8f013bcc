"""Killed at random moments and resumed each time, a run ends as an undisturbed one, bit for bit.

    python benchmarks/kill_resume.py [--kills 20] [--ranks 1 2] [--steps 400] [--seed 0]

A tiny model (64 px, size 0.125, random backbone, embedded textures) is trained undisturbed; then the same command is started,
SIGKILLed (all its processes) at a random moment, started again, and so on, until the kills are used up and it may finish. The
moments are drawn over the whole life of the process: imports, training, checkpoints. Results go to
benchmarks/results/kill_resume.csv.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import os
import random
import subprocess
import sys
import tempfile
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path

import psutil
from common import commit, device_name
from safetensors import safe_open

from bikd_fast.training.place import free_port

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results/kill_resume.csv"
TINY = [
    *("--model.weights", "random", "--model.size", "0.125", "--data.image_size", "64", "--data.category", "grass"),
    *("--training.batch_size", "4", "--training.precision", "fp32", "--training.log_every", "5", "--report", "false"),
    *("--training.checkpoint_seconds", "0.1"),
]


def command(ranks: int, steps: int, output: Path) -> list[str]:
    """The training command; DeepSpeed's launcher from two ranks on."""
    launcher = [str(Path(sys.executable).parent / "deepspeed"), "--num_accelerators", str(ranks), "--master_port", str(free_port())]
    start = launcher if ranks > 1 else [sys.executable]
    return [*start, "bikd_fast/train.py", *TINY, "--training.steps", str(steps), "--output", str(output)]


def start(words: list[str], log: Path) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(words, cwd=ROOT, env=environment, stdout=log.open("a"), stderr=subprocess.STDOUT)


def kill(process: subprocess.Popen) -> None:
    """SIGKILL to the process and all below it."""
    with contextlib.suppress(psutil.Error):
        below = psutil.Process(process.pid).children(recursive=True)
        for one in [psutil.Process(process.pid), *below]:
            with contextlib.suppress(psutil.Error):
                one.kill()
        psutil.wait_procs(below, timeout=10)
    process.wait()


def tensors(run: Path) -> dict[str, bytes]:
    with safe_open(run / "detector.safetensors", framework="np") as file:
        return {key: file.get_tensor(key).tobytes() for key in file.keys()}  # noqa: SIM118


def newest(run: Path) -> str:
    return max((p.name for p in (run / "checkpoints").glob("step-*")), default="none")


def reached(run: Path) -> int:
    """Step of the newest checkpoint."""
    name = newest(run)
    return 0 if name == "none" else int(name.removeprefix("step-").removesuffix(".safetensors"))


def trial(ranks: int, steps: int, kills: int, draw: random.Random, folder: Path) -> dict[str, object]:
    whole, cut, log = folder / f"whole{ranks}", folder / f"cut{ranks}", folder / f"log{ranks}"
    began = time.monotonic()
    assert start(command(ranks, steps, whole), log).wait() == 0, log.read_text()[-3000:]
    life = time.monotonic() - began
    print(f"{ranks} rank(s): undisturbed run of {life:.1f} s", flush=True)
    in_training = landed = 0
    for number in range(kills):
        process = start(command(ranks, steps, cut), log)
        # half of the kills at a random moment after training has got further, spread over all of it; half anywhere before that
        if number % 2:
            goal = steps * number / (kills + 1)
            while process.poll() is None and reached(cut) < goal:
                time.sleep(0.01)
            time.sleep(draw.uniform(0, 0.2))
            in_training += 1
        else:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(draw.uniform(0.2, 6))
        landed += process.poll() is None
        kill(process)
        print(f"  kill {number + 1}: newest checkpoint {newest(cut)}", flush=True)
    code = start(command(ranks, steps, cut), log).wait()
    equal = code == 0 and (cut / "DONE").is_file() and tensors(whole) == tensors(cut)
    return {
        "ranks": ranks,
        "steps": steps,
        "kills": kills,
        "while_running": landed,
        "after_a_new_checkpoint": in_training,
        "bit_for_bit": equal,
        "seconds": round(time.monotonic() - began, 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for ranks in options.ranks:
            row = trial(ranks, options.steps, options.kills, random.Random(options.seed), Path(folder))
            made = {"date": date.today().isoformat(), "machine": device_name("cpu"), "cores": os.cpu_count(), "commit": commit()}
            rows.append({**made, "torch": version("torch"), "deepspeed": version("deepspeed"), **row})
            print(rows[-1], flush=True)
            new = not RESULTS.exists()
            with RESULTS.open("a", newline="") as file:
                writer = csv.DictWriter(file, rows[-1])
                if new:
                    writer.writeheader()
                writer.writerow(rows[-1])
    return 0 if all(row["bit_for_bit"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
