"""Timing in rotation, peak memory, launches, and rows appended to a CSV that is never edited."""

from __future__ import annotations

import csv
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from bikd_fast.config import RunConfig
from bikd_fast.versions import versions

RESULTS = Path(__file__).parent / "results"
Call = Callable[[int], Any]  # takes the number of an input set; sets are rotated so that none is found in a cache


def random_pictures(config: RunConfig) -> torch.Tensor:
    """uint8 (N, 3, S, S), at least a batch: how long a step takes does not depend on what they show."""
    draw, side = torch.Generator().manual_seed(0), config.data.image_size
    return (torch.rand(max(32, config.training.batch_size), 3, side, side, generator=draw) * 255).byte()


def device_name(device: str) -> str:
    """Marketing name of the GPU, or of the CPU."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")] \
        if info.exists() else []
    return names[0] if names else platform.processor()


def commit() -> str:
    """Short hash of the checkout, with + where tracked kernel or benchmark sources differ from it."""
    here = Path(__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=here, capture_output=True, text=True).stdout.strip()

    changed = git("status", "--porcelain", "-uno", "../kernels", "*.py")
    return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")


def environment(device: str) -> dict[str, Any]:
    """What a row needs to be compared with another: machine, versions, commit, threads, load, time."""
    return dict(
        device=device_name(device), cores=os.cpu_count(), threads=torch.get_num_threads(),
        load=round(os.getloadavg()[0], 1), torch=torch.__version__, triton=versions(["triton"])["triton"], commit=commit(),
        when=time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
    )


def once(call: Call, turn: int, device: str) -> float:
    """Microseconds of one call."""
    if device == "cuda":
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda._sleep(1 << 20)  # half a millisecond, in which the host runs ahead: its time is not the call's
        start.record()
        call(turn)
        end.record()
        end.synchronize()
        return 1000.0 * start.elapsed_time(end)
    begin = time.perf_counter()
    call(turn)
    return 1e6 * (time.perf_counter() - begin)


def graphed(call: Call, sets: int) -> Call:
    """One CUDA graph of a call on every input set; replaying it costs no launch from Python."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for turn in range(max(3, sets)):
            call(turn)
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = [call(turn) for turn in range(sets)]
    return lambda _turn, _kept=kept: graph.replay()


def time_in_rotation(
    calls: dict[str, Call], device: str, sets: int, seconds: float, rounds: int = 7
) -> dict[str, tuple[float, float, float, str]]:
    """20th, 50th and 80th percentile in us and the method, of each call; every round runs each once, in rotation.

    On a GPU calls of up to 20 ms, of every provider alike, are captured in a CUDA graph over all input sets (method "graph"): a
    launch from Python takes some us, and a call makes up to hundreds. Those that cannot be captured stay with events and say so.
    """
    found: dict[str, tuple[Call, int, str]] = {}
    for name, call in calls.items():
        call(0)
        call(1)
        found[name] = (call, 1, "events" if device == "cuda" else "clock")
        if device == "cuda" and min(once(call, turn, device) for turn in range(5)) < 20_000:
            try:
                found[name] = (graphed(call, sets), sets, "graph")
            except RuntimeError as error:
                print(f"  {name}: not capturable ({str(error).splitlines()[0]})")
                torch.cuda.synchronize()
    samples: dict[str, list[float]] = {name: [] for name in found}
    begin, turn = time.perf_counter(), 0
    while turn < rounds or (time.perf_counter() - begin < seconds and turn < 1000):
        for name, (call, calls_each, _) in found.items():
            samples[name].append(once(call, turn, device) / calls_each)
        turn += 1
    quantiles = torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)
    return {
        name: (*torch.tensor(values, dtype=torch.float64).quantile(quantiles).tolist(), found[name][2])
        for name, values in samples.items()
    }


def peak_megabytes(call: Call, device: str) -> float:
    """Most memory a call holds at once above what it found, its results included."""
    call(0)
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call(0)
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    with torch.autograd.profiler.profile(profile_memory=True) as profile:
        kept = call(0)
    del kept
    held = peak = 0
    events = [e for e in profile.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak / 1e6


def launches(call: Call, device: str) -> int | None:
    """Kernels, copies and fills a call puts on the GPU; None on the CPU."""
    if device != "cuda":
        return None
    call(0)
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        call(0)
        torch.cuda.synchronize()
    return sum(1 for e in profile.events() if e.device_type == torch.autograd.DeviceType.CUDA)


def append(path: Path, rows: Iterable[dict[str, Any]], columns: list[str]) -> None:
    """Add rows to a CSV file; ValueError if the file there has other columns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = not path.exists()
    if not fresh:
        with path.open(newline="") as file:
            header = next(csv.reader(file), [])
        if header != columns:
            raise ValueError(f"{path} has the columns {header}, not {columns}: move it away or write to another file")
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, columns)
        if fresh:
            writer.writeheader()
        writer.writerows(rows)
