"""Time and memory of pixel metrics: ours, the MVTec way, scikit-learn and installed peers, on the same maps in one process.

    python benchmarks/metrics.py [--images 400] [--size 512] [--rounds 3] [--stream 10000]

Writes benchmarks/results/metrics.csv. Compare the rows of one run with each other (the ratio column), not seconds
across machines: other processes may share the cores, which slows every row alike.
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import sklearn
from metrics_peers import installed
from scipy import ndimage
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from bikd_fast.metrics import StreamingEvaluation, evaluate

Result = dict[str, Any]


def make_set(images: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Smooth float32 maps, four fifths with rectangular and thin diagonal defects; about 1 % anomalous pixels."""
    rng = np.random.default_rng(0)
    masks = np.zeros((images, size, size), np.uint8)
    maps = np.empty((images, size, size), np.float32)
    for i in range(images):
        maps[i] = ndimage.gaussian_filter(rng.standard_normal((size, size), dtype=np.float32), 4) * 8
        if i % 5:
            for _ in range(rng.integers(1, 4)):
                y, x = rng.integers(0, size * 7 // 8, 2)
                h, w = rng.integers(4, size // 8, 2)
                masks[i, y : y + h, x : x + w] = 1
            n = int(rng.integers(8, size // 4))
            masks[i, np.arange(n) + size // 2, np.arange(n) + size // 4] = 1
            maps[i] += ndimage.gaussian_filter(masks[i].astype(np.float32), 4) * rng.uniform(0, 3)
    return maps, masks


def mvtec_way(maps: np.ndarray, masks: np.ndarray, limit: float = 0.3) -> Result:
    """AUPRO as MVTec's evaluation code goes about it: label each image, then sort and accumulate all pixels."""
    region_share = np.zeros(maps.shape)
    regions = 0
    for i, mask in enumerate(masks):
        labels, count = ndimage.label(mask, structure=np.ones((3, 3), int))
        areas = np.bincount(labels.ravel())
        for k in range(1, count + 1):
            region_share[i][labels == k] = 1.0 / areas[k]
        regions += count
    normal = (masks == 0).ravel()
    scores = maps.ravel()
    order = np.argsort(scores)[::-1]
    scores = scores[order]
    fpr = np.cumsum(normal[order], dtype=np.float64) / normal.sum()
    pro = np.cumsum(region_share.ravel()[order]) / regions
    last = np.append(scores[1:] != scores[:-1], True)
    fpr, pro = np.append(0.0, fpr[last]), np.append(0.0, pro[last])
    inside = int(np.searchsorted(fpr, limit, "right"))
    if inside < fpr.size:
        end = np.interp(limit, fpr[inside - 1 : inside + 1], pro[inside - 1 : inside + 1])
        fpr, pro = np.append(fpr[:inside], limit), np.append(pro[:inside], end)
    return {"aupro": float(np.trapezoid(pro, fpr)) / limit}


def scikit_learn(maps: np.ndarray, masks: np.ndarray) -> Result:
    truth, scores = masks.ravel(), maps.ravel()
    precision, recall, _ = precision_recall_curve(truth, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-300)
    return {
        "pixel_auroc": float(roc_auc_score(truth, scores)),
        "pixel_ap": float(average_precision_score(truth, scores)),
        "pixel_f1max": float(f1.max()),
    }


def streaming(maps: np.ndarray, masks: np.ndarray) -> Result:
    stream = StreamingEvaluation()
    for i in range(0, len(maps), 16):
        stream.add(maps[i : i + 16], masks[i : i + 16])
    return stream.result()


def long_stream(maps: np.ndarray, masks: np.ndarray, images: int) -> Result:
    """Many maps, made on the fly by shifting a few; what the stream keeps must not grow with them."""
    stream = StreamingEvaluation()
    for k in range(images):
        i = k % len(maps)
        shifted = np.roll(maps[i], k, axis=1) + np.float32(k * 1e-6)
        stream.add(shifted[None], np.roll(masks[i], k, axis=1)[None])
    return stream.result()


def timed(run: Callable[[], Result]) -> tuple[float, float, Result]:
    """Seconds, peak memory above what was resident before (MB; NaN where the system does not tell), result."""
    before = reset_peak()
    start = time.perf_counter()
    result = run()
    return time.perf_counter() - start, memory("VmHWM") - before, result


def reset_peak() -> float:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return float("nan")
    return memory("VmRSS")


def memory(field: str) -> float:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return float("nan")
    return next(float(line.split()[1]) / 1e3 for line in lines if line.startswith(field))


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    names = (
        [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.exists()
        else []
    )
    return names[0] if names else platform.processor()


def measurements(args: argparse.Namespace) -> Iterator[dict[str, object]]:
    maps, masks = make_set(args.images, args.size)
    evaluate(maps[:4], masks[:4])  # first-call costs belong to no row
    everything = "AUROC+AP+F1max+AUPRO, regions, images"
    methods: dict[str, tuple[str, Callable[[], Result], int]] = {
        "ours, 1 thread": (everything, lambda: evaluate(maps, masks, threads=1), args.rounds),
        "ours, all cores": (everything, lambda: evaluate(maps, masks), args.rounds),
        "ours, streaming 26 bits": ("AUROC+AP+F1max+AUPRO with bounds", lambda: streaming(maps, masks), args.rounds),
        "MVTec way": ("AUPRO", lambda: mvtec_way(maps, masks), args.rounds),
        "scikit-learn": ("AUROC+AP+F1max", lambda: scikit_learn(maps, masks), 1),
    }
    for name, (gives, peer) in installed().items():
        methods[name] = (gives, lambda peer=peer: peer(maps, masks), 1)
    runs: dict[str, list[tuple[float, float, Result]]] = {name: [] for name in methods}
    for turn in range(args.rounds):
        for name, (_, run, times) in methods.items():
            if turn < times:
                runs[name].append(timed(run))
                print(f"{name}: {runs[name][-1][0]:.3f} s, {runs[name][-1][1]:.0f} MB", flush=True)
    check(runs)
    ours = statistics.median(t for t, _, _ in runs["ours, 1 thread"])
    for name, (gives, _, _) in methods.items():
        seconds = statistics.median(t for t, _, _ in runs[name])
        yield row(
            name,
            gives,
            args.images,
            args.size,
            len(runs[name]),
            seconds,
            seconds / ours,
            max(m for _, m, _ in runs[name]),
            runs[name][0][2],
        )
    if args.stream:
        few = maps[:16].copy(), masks[:16].copy()
        methods.clear()
        del maps, masks, run
        for images in (max(args.stream // 10, 1), args.stream):
            seconds, peak, result = timed(lambda n=images: long_stream(*few, n))
            yield row(
                "ours, streaming, maps made on the fly",
                "AUROC+AP+F1max+AUPRO with bounds",
                images,
                args.size,
                1,
                seconds,
                float("nan"),
                peak,
                result,
            )


def check(runs: dict[str, list[tuple[float, float, Result]]]) -> None:
    """All methods must agree, or the times mean nothing."""
    ours = runs["ours, 1 thread"][0][2]
    for name, tolerance in (("MVTec way", 1e-9), ("scikit-learn", 1e-12), ("ours, all cores", 0.0)):
        for metric, value in runs[name][0][2].items():
            if isinstance(value, float) and not abs(value - ours[metric]) <= tolerance and value == value:
                raise AssertionError(f"{name} gives {metric} {value!r}, ours {ours[metric]!r}")
    for metric, (low, high) in runs["ours, streaming 26 bits"][0][2]["bounds"].items():
        if not low <= ours[metric] <= high:
            raise AssertionError(f"{metric} {ours[metric]!r} lies outside its bounds {low!r}..{high!r}")


def row(
    method: str,
    gives: str,
    images: int,
    size: int,
    runs: int,
    seconds: float,
    ratio: float,
    peak: float,
    result: Result,
) -> dict[str, object]:
    values = {name: result.get(name, "") for name in ("pixel_auroc", "pixel_ap", "pixel_f1max", "aupro")}
    widest = max((high - low for low, high in result.get("bounds", {}).values()), default="")
    return {
        "method": method,
        "gives": gives,
        "images": images,
        "size": size,
        "runs": runs,
        "seconds_median": f"{seconds:.3f}",
        "times_ours_1_thread": "" if ratio != ratio else f"{ratio:.2f}",
        "peak_mb_above_inputs": f"{peak:.0f}",
        **values,
        "widest_bound": widest,
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load_average": f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "sklearn": sklearn.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--stream", type=int, default=10000, help="maps of the long streaming run; 0: leave it out")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "metrics.csv")
    args = parser.parse_args()
    rows = []
    for one in measurements(args):
        print(
            {k: one[k] for k in ("method", "images", "seconds_median", "times_ours_1_thread", "peak_mb_above_inputs")},
            flush=True,
        )
        rows.append(one)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with args.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
