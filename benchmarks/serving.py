"""`bikd serve` under load, on this machine only: REQUESTS from CLIENTS at once, its memory, rows added to results/serving.csv.

    python benchmarks/serving.py RUN [--category NAME] [--data DIR] [--requests 1000] [--clients 32]

The service is a process of its own; the clients share this one and the machine's cores with it, so the figures are a lower
bound of what it can do alone. Pictures are those that the run was measured on, sent as files.
"""

from __future__ import annotations

import argparse
import http.client
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
from common import RESULTS, append, environment

from bikd_fast.exporting.parity import run_pictures
from bikd_fast.inference.find import find_detector
from bikd_fast.inference.sources import picture_paths

COLUMNS = [
    "requests", "clients", "failures", "seconds", "requests_per_second", "p50_ms", "p95_ms", "p99_ms", "max_ms",
    "resident_after_100_mb", "resident_end_mb", "picture_bytes", "run",
    "device", "cores", "threads", "load", "torch", "triton", "commit", "when",
]  # fmt: skip


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


def load(port: int, files: list[bytes], requests: int, clients: int, resident) -> tuple[list[float], Counter, list[float]]:
    """Send the requests; seconds of each, answers by status, resident memory after each hundred."""
    times, statuses, memory, lock = [], Counter(), [], threading.Lock()
    numbers = iter(range(requests))

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            begin = time.perf_counter()
            try:
                connection.request("POST", "/v1/predict", files[number % len(files)], {"content-type": "image/png"})
                answer = connection.getresponse()
                answer.read()
                status = answer.status
            except OSError as error:
                status = type(error).__name__
                connection.close()
            with lock:
                times.append(time.perf_counter() - begin)
                statuses[status] += 1
                if len(times) % 100 == 0:
                    memory.append(resident())

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return times, statuses, memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--category")
    parser.add_argument("--data", type=Path, help="a folder of PNG pictures; default those the run was measured on")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=32)
    options = parser.parse_args()
    folder = find_detector(options.run, options.category)
    paths = picture_paths(options.data) if options.data else run_pictures(options.run, folder, float("nan"))
    files = [path.read_bytes() for path in paths]
    service, port = start(options.run, options.category)
    try:
        process = psutil.Process(service.pid)
        load(port, files, 2 * options.clients, options.clients, lambda: 0.0)  # warm
        begin = time.perf_counter()
        times, statuses, memory = load(port, files, options.requests, options.clients, lambda: process.memory_info().rss / 1e6)
        seconds = time.perf_counter() - begin
    finally:
        service.terminate()
        service.wait(30)
    milliseconds = 1000 * np.array(times)
    row = {
        "requests": options.requests,
        "clients": options.clients,
        "failures": options.requests - statuses[200],
        "seconds": round(seconds, 2),
        "requests_per_second": round(options.requests / seconds, 2),
        **{f"p{q}_ms": round(float(np.percentile(milliseconds, q)), 1) for q in (50, 95, 99)},
        "max_ms": round(float(milliseconds.max()), 1),
        "resident_after_100_mb": round(memory[0], 1) if memory else "",
        "resident_end_mb": round(memory[-1], 1) if memory else "",
        "picture_bytes": round(float(np.mean([len(f) for f in files]))),
        "run": folder.name,
        **environment("cpu"),
    }
    append(RESULTS / "serving.csv", [row], COLUMNS)
    print(", ".join(f"{key} {value}" for key, value in row.items()), f"\nstatuses {dict(statuses)}")


if __name__ == "__main__":
    main()
