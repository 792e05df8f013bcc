"""Time of the anomaly simulation and of its parts, per batch, on the machine's own device.

    python benchmarks/simulation.py [--batch 8] [--size 256] [--threads 2] [--rounds 60] [--out CSV]

Appends to benchmarks/results/simulation.csv. The parts are timed in rotation in one process, so that a busy machine slows
all alike. On a GPU the host starts each part launch by launch, but for the CUDA graph, which is what a training replays. ms are
of the clock, cpu_ms of the process (all its threads together; the fairer figure on shared cores).
"""

import argparse
import csv
import datetime
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch
from bikd_kernels import simulate
from common import commit, device_name
from skimage import data

from bikd_fast.simulation import SimulationConfig, Simulator, sample_keys
from bikd_fast.simulation.nuisance import add_nuisance
from bikd_fast.simulation.random import Numbers
from bikd_fast.simulation.simulator import Drawn
from bikd_fast.training.capture import record

COLUMNS = (
    "part", "batch", "size", "device", "threads", "ms20", "ms50", "ms80", "cpu_ms", "load", "torch", "commit", "date"
)  # fmt: skip
RESULTS = Path(__file__).parent / "results" / "simulation.csv"


def pictures(count: int, size: int) -> torch.Tensor:
    """(count, 3, size, size) uint8 crops of scikit-image's gravel."""
    surface = torch.from_numpy(data.gravel())
    if size > len(surface):
        surface = surface.repeat(-(-size // len(surface)), -(-size // len(surface)))
    steps = torch.linspace(0, len(surface) - size, count).long().tolist()
    return torch.stack([surface[s : s + size, s : s + size].expand(3, -1, -1) for s in steps]).contiguous()


def measure(parts: dict[str, Callable[[torch.Tensor], object]], keys: list[torch.Tensor]) -> dict[str, list[float]]:
    """Clock and processor milliseconds of each part, one pair a key."""
    clock: dict[str, list[float]] = {name: [] for name in parts}
    cpu: dict[str, list[float]] = {name: [] for name in parts}
    for key in keys:
        for name, part in parts.items():
            if key.is_cuda:
                torch.cuda.synchronize()
            before, used = time.perf_counter(), time.process_time()
            part(key)
            if key.is_cuda:
                torch.cuda.synchronize()
            clock[name].append(1e3 * (time.perf_counter() - before))
            cpu[name].append(1e3 * (time.process_time() - used))
    return {name: [*quantiles(clock[name]), quantiles(cpu[name])[1]] for name in parts}


def quantiles(values: list[float]) -> list[float]:
    """20 %, 50 % and 80 % quantile."""
    return torch.tensor(values).quantile(torch.tensor([0.2, 0.5, 0.8])).tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--out", type=Path, default=RESULTS, help="CSV to append to")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pool = pictures(options.batch, options.size).to(device)
    simulator = Simulator(SimulationConfig(), pool)
    index = torch.arange(options.batch, device=device)
    images = pool.float() / 255
    bank = simulator._noise
    assert bank is not None

    def draw(keys: torch.Tensor) -> Drawn:
        return simulator._draw(images, index, Numbers(keys, simulator._numbers))

    drawn = draw(sample_keys(0, 0, index))
    depth, content = simulator._maps(images, drawn)
    opacity, feather = drawn.opacity.squeeze(1), drawn.feather.squeeze(1)
    corrupt = simulator._near_defects if simulator.compact else simulator._everywhere
    parts: dict[str, Callable[[torch.Tensor], object]] = {
        "all": lambda keys: simulator(images, index, keys),
        "parameters": draw,
        "corrupt": lambda keys: corrupt(images, drawn),
        "blend": lambda keys: simulate(images, content, depth, opacity, feather),
        "nuisance": lambda keys: add_nuisance(images, keys, 1.0, bank),
    }
    if device == "cuda":
        here = sample_keys(0, 0, index)
        parts["maps"] = lambda keys: simulator._maps(images, drawn)
        parts["maps, eager"] = lambda keys: simulator._maps(images, drawn, "reference")
        graph, _ = record(lambda: simulator(images, index, here))[0]
        parts["all, a CUDA graph"] = lambda keys: (here.copy_(keys), graph.replay())
    else:
        parts["corrupt, every pixel"] = lambda keys: simulator._everywhere(images, drawn)
    with torch.no_grad():
        measure(parts, [sample_keys(1, i, index) for i in range(5)])
        times = measure(parts, [sample_keys(0, i, index) for i in range(options.rounds)])
    load = f"{os.getloadavg()[0]:.1f}"
    new = not options.out.exists()
    with options.out.open("a", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        if new:
            rows.writerow(COLUMNS)
        for part, figures in times.items():
            shown = [f"{v:.2f}" for v in figures]
            print(f"{part:20s} {shown[1]:>8s} ms  (20-80 %: {shown[0]}-{shown[2]}; processor {shown[3]})")
            rows.writerow([
                part, options.batch, options.size, device_name(device), options.threads, *shown, load, torch.__version__, commit(),
                datetime.date.today().isoformat(),
            ])  # fmt: skip


if __name__ == "__main__":
    main()
