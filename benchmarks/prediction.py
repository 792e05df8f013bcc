"""`bikd predict` against its network alone: pictures a second, time to the first result. Rows added to results/prediction.csv.

    python benchmarks/prediction.py RUN [--category NAME] [--data DIR] [--pictures 200] [--rounds 3]

bare       the network on one batch of pictures that lies decoded in memory, again and again
scores     files in, scores.csv out: reading, decoding, resizing, the same network, writing
heatmaps   the same with scores.json and a heat map a picture
first      seconds from starting the process to the first line of its output

bare, scores and heatmaps are measured in rotation, the median of the rounds is kept: by the clock, and by the processor time of the
process, which other work on the machine hardly moves. Where both cores are busy, shares of one are shares of the other.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from common import RESULTS, append, environment

from bikd_fast.exporting.parity import run_pictures
from bikd_fast.inference.find import find_detector, load_detector
from bikd_fast.inference.inputs import square, unit
from bikd_fast.inference.look import look
from bikd_fast.inference.prediction import BATCH
from bikd_fast.inference.sources import expand, picture_paths
from bikd_fast.inference.writers import Writers
from bikd_fast.models.detector import Detector

COLUMNS = [
    "case", "pictures_per_second", "share_of_bare", "cpu_ms_per_picture", "cpu_share_of_bare", "first_result_s",
    "pictures", "batch", "image_size", "run",
    "device", "cores", "threads", "load", "torch", "triton", "commit", "when",
]  # fmt: skip


@torch.inference_mode()
def bare(detector: Detector, batch: torch.Tensor, count: int) -> int:
    """The network on one batch, ``count`` pictures long; how many pictures that were."""
    for _ in range(count // len(batch)):
        _, scores = detector(batch)
    scores.tolist()  # a GPU has its work still before it here: waited for, as `bikd predict` waits for its results
    return count // len(batch) * len(batch)


def predicting(detector: Detector, paths: list[str], kinds: list[str]) -> int:
    """The whole command, without the start of its process; how many pictures it saw."""
    limits = (detector.threshold.item(), detector.pixel_threshold.item())
    with tempfile.TemporaryDirectory() as folder:
        with Writers(Path(folder), kinds, limits, (0.6 * limits[1], 1.4 * limits[1]), {}) as writers:
            for result in look(detector, expand(paths), keep=writers.keeps_pictures):
                writers.add(result)
    return len(paths)


def timed(case: Callable[[], int]) -> tuple[float, float]:
    """Seconds and processor seconds a picture."""
    begin, used = time.perf_counter(), time.process_time()
    count = case()
    return (time.perf_counter() - begin) / count, (time.process_time() - used) / count


def first_result(run: Path, category: str | None, path: str) -> float:
    """Seconds from the command to its first line."""
    words = [sys.executable, "-m", "bikd_fast.cli", "predict", str(run), path, "--write", "none"]
    words += ["--category", category] if category else []
    begin = time.perf_counter()
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    seconds = time.perf_counter() - begin
    process.communicate()
    assert line and process.returncode == 0, "the command failed"
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--category")
    parser.add_argument("--data", type=Path, help="a folder of pictures; default those the run was measured on")
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS / "prediction.csv")
    options = parser.parse_args()
    detector = load_detector(options.run, options.category)
    folder = find_detector(options.run, options.category)
    files = picture_paths(options.data) if options.data else run_pictures(options.run, folder, float("nan"))
    paths = [str(path) for path in itertools.islice(itertools.cycle(files), options.pictures)]
    batch = unit(torch.stack([square(path, detector.image_size) for path in paths[:BATCH]]), detector.device)
    cases = {
        "bare": lambda: bare(detector, batch, options.pictures),
        "scores": lambda: predicting(detector, paths, ["csv"]),
        "heatmaps": lambda: predicting(detector, paths, ["csv", "json", "heatmaps"]),
    }
    bare(detector, batch, 2 * BATCH)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in cases}
    for _ in range(options.rounds):
        for name, case in cases.items():
            times[name].append(timed(case))
    starts = sorted(first_result(options.run, options.category, paths[0]) for _ in range(options.rounds))
    medians = {name: tuple(map(statistics.median, zip(*found))) for name, found in times.items()}
    rest = {"pictures": options.pictures, "batch": BATCH, "image_size": detector.image_size, "run": options.run.name}
    rows = [
        {
            "case": name,
            "pictures_per_second": round(1 / wall, 2),
            "share_of_bare": round(medians["bare"][0] / wall, 3),
            "cpu_ms_per_picture": round(1000 * used, 2),
            "cpu_share_of_bare": round(medians["bare"][1] / used, 3),
            **rest,
            **environment(detector.device.type),
        }
        for name, (wall, used) in medians.items()
    ]
    first = {"case": "first", "first_result_s": round(statistics.median(starts), 2)}
    rows.append({**first, **rest, "pictures": 1, **environment(detector.device.type)})
    append(options.out, rows, COLUMNS)
    for row in rows:
        print({key: row[key] for key in COLUMNS[:6] if key in row})


if __name__ == "__main__":
    main()
