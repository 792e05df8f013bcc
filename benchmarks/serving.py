"""`bikd serve` under load, on this machine only: REQUESTS from CLIENTS at once, its memory, rows added to results/serving.csv.

    python benchmarks/serving.py RUN [--category NAME] [--data DIR] [--requests 1000] [--clients 32]
    python benchmarks/serving.py RUN --memory [--requests 10000]

--memory asks only whether memory stays flat: small pictures of several formats, a third of them with a heat map asked for, and
among them uploads that have to be refused. Resident memory is sampled along the way; one row goes to results/serving_memory.csv.

The service is a process of its own; the clients share this one and the machine's cores with it, so the figures are a lower
bound of what it can do alone. Pictures are those that the run was measured on, sent as files.
"""

from __future__ import annotations

import argparse
import http.client
import io
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
import torch
from common import RESULTS, append, environment
from PIL import Image

from bikd_fast.exporting.parity import run_pictures
from bikd_fast.inference.find import find_detector
from bikd_fast.inference.sources import picture_paths

COLUMNS = [
    "requests", "clients", "failures", "seconds", "requests_per_second", "p50_ms", "p95_ms", "p99_ms", "max_ms",
    "resident_after_100_mb", "resident_end_mb", "picture_bytes", "run",
    "device", "cores", "threads", "load", "torch", "triton", "commit", "when",
]  # fmt: skip
MEMORY_COLUMNS = [
    "requests", "clients", "answered_200", "refused_as_due", "failures", "seconds", "resident_after_1000_mb", "resident_end_mb",
    "kilobytes_per_1000_requests", "every_500_mb", "threads_end", "files_end", "run",
    "device", "cores", "threads", "load", "torch", "triton", "commit", "when",
]  # fmt: skip
Ask = tuple[str, bytes, str, int]  # path, body, content type, status that is due


def small_pictures() -> list[Ask]:
    """Requests to repeat: 24 sound ones, 6 that have to be refused."""
    rng = np.random.default_rng(0)
    asks: list[Ask] = []
    for i in range(24):
        side = int(rng.integers(40, 90))
        kind = ("PNG", "JPEG", "WEBP", "BMP")[i % 4]
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (side, side + i, 3), dtype=np.uint8)).save(buffer, kind)
        asks.append(("/v1/predict" + ("?heatmap=true" if i % 3 == 0 else ""), buffer.getvalue(), f"image/{kind.lower()}", 200))
    sound = asks[0][1]
    return asks + [
        ("/v1/predict", sound[: len(sound) // 2], "image/png", 400),
        ("/v1/predict", b"", "image/png", 400),
        ("/v1/predict", b"no picture" * 100, "image/png", 415),
        ("/v1/predict", sound, "text/html", 415),
        ("/v1/predict", b"--x\r\nbroken", "multipart/form-data; boundary=x", 400),
        ("/v1/predict?heatmap=perhaps", sound, "image/png", 422),
    ]


def start(run: Path, category: str | None) -> tuple[subprocess.Popen, int]:
    """The service, and the port it has chosen."""
    words = [sys.executable, "-m", "bikd_fast.cli", "serve", str(run), "--port", "0"]
    words += ["--category", category] if category else []
    service = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert service.stdout is not None
    line = service.stdout.readline()
    if not line:
        sys.exit("the service did not start; its message is above")
    return service, int(line.strip().rpartition(":")[2])


def load(port: int, asks: list[Ask], requests: int, clients: int, resident) -> tuple[list[float], Counter, list[float]]:
    """Send the requests; seconds of each, answers by (status, status that was due), resident memory after each hundred."""
    times, statuses, memory, lock = [], Counter(), [], threading.Lock()
    numbers = iter(range(requests))
    unexpected: list[bytes] = []

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            path, body, kind, due = asks[number % len(asks)]
            begin = time.perf_counter()
            try:
                connection.request("POST", path, body, {"content-type": kind})
                answer = connection.getresponse()
                text = answer.read()
                status = answer.status
                if status != due and not unexpected:
                    unexpected.append(text)
            except (OSError, http.client.HTTPException) as error:
                status = type(error).__name__
                connection.close()
            with lock:
                times.append(time.perf_counter() - begin)
                statuses[status, due] += 1
                if len(times) % 100 == 0:
                    memory.append(resident())

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if unexpected:
        print("first unexpected answer:", unexpected[0][:300].decode(errors="replace"))
    return times, statuses, memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--category")
    parser.add_argument("--data", type=Path, help="a folder of PNG pictures; default those the run was measured on")
    parser.add_argument("--requests", type=int, help="default 1000, 10000 with --memory")
    parser.add_argument("--clients", type=int, help="default 32, 8 with --memory")
    parser.add_argument("--memory", action="store_true", help="whether memory stays flat, instead of how fast answers come")
    options = parser.parse_args()
    options.clients = options.clients or (8 if options.memory else 32)
    options.requests = options.requests or (10_000 if options.memory else 1000)
    folder = find_detector(options.run, options.category)
    if options.memory:
        asks = small_pictures()
    else:
        paths = picture_paths(options.data) if options.data else run_pictures(options.run, folder, float("nan"))
        asks = [("/v1/predict", path.read_bytes(), "image/png", 200) for path in paths]
    service, port = start(options.run, options.category)
    try:
        process = psutil.Process(service.pid)
        load(port, asks, 2 * options.clients, options.clients, lambda: 0.0)  # warm
        begin = time.perf_counter()
        times, statuses, memory = load(port, asks, options.requests, options.clients, lambda: process.memory_info().rss / 1e6)
        seconds = time.perf_counter() - begin
        held = process.num_threads(), process.num_fds()
    finally:
        service.terminate()
        service.wait(30)
    due = sum(count for (status, wanted), count in statuses.items() if status == wanted)
    where = "cuda" if torch.cuda.is_available() else "cpu"  # what the service takes
    shared = {"requests": options.requests, "clients": options.clients, "failures": options.requests - due,
              "seconds": round(seconds, 2), "run": folder.name, **environment(where)}  # fmt: skip
    if options.memory:
        row = shared | flatness(memory) | {"answered_200": statuses[200, 200], "refused_as_due": due - statuses[200, 200]}
        row |= {"threads_end": held[0], "files_end": held[1]}
        append(RESULTS / "serving_memory.csv", [row], MEMORY_COLUMNS)
    else:
        row = shared | speed(times, seconds, memory) | {"picture_bytes": round(float(np.mean([len(ask[1]) for ask in asks])))}
        append(RESULTS / "serving.csv", [row], COLUMNS)
    print(", ".join(f"{key} {value}" for key, value in row.items()), f"\n(status, due): {dict(statuses)}")


def flatness(memory: list[float]) -> dict[str, object]:
    """Resident memory after a thousand requests and at the end, and the slope of the line through all samples between."""
    later = np.array(memory[9:])
    slope = float(np.polyfit(np.arange(len(later)) / 10, later, 1)[0]) if len(later) > 2 else float("nan")
    return {
        "resident_after_1000_mb": round(memory[9], 1) if len(memory) > 9 else "",
        "resident_end_mb": round(memory[-1], 1) if memory else "",
        "kilobytes_per_1000_requests": round(1000 * slope, 1),
        "every_500_mb": " ".join(f"{value:.0f}" for value in memory[4::5]),
    }


def speed(times: list[float], seconds: float, memory: list[float]) -> dict[str, object]:
    """Columns of a row of serving.csv."""
    milliseconds = 1000 * np.array(times)
    return {
        "requests_per_second": round(len(times) / seconds, 2),
        **{f"p{q}_ms": round(float(np.percentile(milliseconds, q)), 1) for q in (50, 95, 99)},
        "max_ms": round(float(milliseconds.max()), 1),
        "resident_after_100_mb": round(memory[0], 1) if memory else "",
        "resident_end_mb": round(memory[-1], 1) if memory else "",
    }


if __name__ == "__main__":
    main()
