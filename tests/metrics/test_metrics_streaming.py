"""The streaming form: its bounds hold, 16-bit maps are exact, parts merge, memory does not grow."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
import torch
from exact_reference import random_case

from bikd_fast.metrics import StreamingEvaluation, evaluate, to_json
from bikd_fast.metrics.streaming import bin_of, lowest_of

NAMES = ("pixel_auroc", "pixel_ap", "pixel_f1max", "aupro")


def check_bounds(maps: list, masks: list, bits: int, limit: float = 0.3) -> float:
    """Assert that the exact values lie within the bounds; return the widest bound."""
    stream = StreamingEvaluation(bits)
    half = len(maps) // 2
    stream.add(maps[:half], masks[:half])
    stream.add(maps[half:], masks[half:])
    found, exact = stream.result(limit), evaluate(maps, masks, fpr_limit=limit, threads=1)
    width = 0.0
    for name in NAMES:
        low, high = found["bounds"][name]
        if math.isnan(exact[name]):
            assert math.isnan(low) and math.isnan(high) and math.isnan(found[name])
            continue
        assert low - 1e-13 <= exact[name] <= high + 1e-13, (name, low, exact[name], high)
        assert low - 1e-13 <= found[name] <= high + 1e-13
        width = max(width, high - low)
    for name in ("image_auroc", "image_ap", "image_f1max", "image_f1max_threshold"):
        assert found[name] == exact[name] or math.isnan(exact[name])
    assert all(found["about"][k] == exact["about"][k] for k in exact["about"])
    return width


@pytest.mark.parametrize("block", range(10))
def test_bounds_hold_in_a_thousand_cases(block: int) -> None:
    for seed in range(100 * block, 100 * block + 100):
        rng = np.random.default_rng(seed)
        maps, masks = random_case(rng)
        if seed % 2:  # continuous scores of wild magnitudes, both signs
            maps = [rng.normal(size=m.shape) * 10.0 ** rng.integers(-30, 30, m.shape) + m for m in maps]
        limit = float(rng.choice([0.1, 0.3, 1.0]))
        check_bounds(maps, masks, 26, limit)
        if seed % 2:
            check_bounds(maps, masks, int(rng.integers(12, 16)), limit)  # few bits: bins with much inside


def test_bounds_are_as_tight_as_promised_on_realistic_maps() -> None:
    rng = np.random.default_rng(0)
    masks = np.zeros((40, 128, 128), bool)
    masks[20:, 30:50, 60:66] = True
    maps = np.exp(rng.normal(size=masks.shape) + 2 * masks).astype(np.float32)
    assert 0 < check_bounds(list(maps), list(masks), 26) < 1e-4
    assert check_bounds(list(maps), list(masks), 28) < check_bounds(list(maps), list(masks), 20)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("bits", [19, 26])
def test_sixteen_bit_maps_are_exact(dtype: torch.dtype, bits: int) -> None:
    generator = torch.Generator().manual_seed(0)
    masks = torch.rand(5, 50, 50, generator=generator) < 0.1
    masks[0] = False
    maps = (torch.randn(5, 50, 50, generator=generator) + masks).to(dtype)
    stream = StreamingEvaluation(bits)
    stream.add(maps, masks)
    found, exact = stream.result(), evaluate(maps, masks)
    assert found["about"]["exact"]
    for name in (*NAMES, "pixel_f1max_threshold"):
        assert found[name] == pytest.approx(exact[name], abs=1e-12)
        assert name.endswith("threshold") or found["bounds"][name] == [found[name], found[name]]


def test_single_precision_maps_do_not_claim_to_be_exact() -> None:
    stream = StreamingEvaluation()
    stream.add(np.zeros((1, 3, 3), np.float16), np.eye(3, dtype=bool)[None])
    assert stream.result()["about"]["exact"]
    stream.add(np.full((1, 3, 3), 0.1, np.float32), np.eye(3, dtype=bool)[None])
    assert not stream.result()["about"]["exact"]


def test_double_precision_lost_in_the_bins_is_not_called_exact() -> None:
    stream = StreamingEvaluation()
    stream.add(np.array([[[1.0, 1.0 + 1e-12]]]), np.array([[[0, 1]]]))
    found = stream.result()
    assert not found["about"]["exact"]
    assert found["bounds"]["pixel_auroc"] == [0.0, 1.0]


def test_a_refused_batch_leaves_nothing_behind() -> None:
    rng = np.random.default_rng(0)
    maps, masks = rng.normal(size=(3, 8, 8)), rng.random((3, 8, 8)) < 0.2
    stream = StreamingEvaluation()
    stream.add(maps, masks)
    before = stream.result()
    broken = maps.copy()
    broken[2, 0, 0] = np.nan
    with pytest.raises(ValueError, match=r"maps\[2\]"):
        stream.add(broken, masks, scores=[0.0, 0.0, 0.0])
    assert to_json(stream.result()) == to_json(before)


def test_f1_threshold_reaches_the_f1_it_promises() -> None:
    rng = np.random.default_rng(1)
    masks = rng.random((3, 60, 60)) < 0.1
    maps = (rng.normal(size=masks.shape) + 2 * masks - 1).astype(np.float32)
    stream = StreamingEvaluation(18)
    stream.add(maps, masks)
    found = stream.result()
    at = maps >= np.float32(found["pixel_f1max_threshold"])
    assert 2 * (at & masks).sum() / (at.sum() + masks.sum()) == pytest.approx(found["pixel_f1max"], abs=1e-12)


def test_bins_ascend_with_the_score() -> None:
    scores = np.array([-np.inf, -1e30, -1.0, -1e-40, -0.0, 0.0, 1e-40, 1e-3, 1.0, 1.5, 2.0, 1e30, np.inf], np.float32)
    bins = bin_of(scores, 26)
    assert bins[4] == bins[5]
    assert (np.diff(np.delete(bins, 4).astype(np.int64)) > 0).all()
    for score, index in zip(scores, bins.tolist()):
        edge = lowest_of(index, 26)
        assert edge <= score
        assert bin_of(np.array([edge], np.float32), 26)[0] == index


def test_merged_parts_equal_the_whole() -> None:
    maps, masks = random_case(np.random.default_rng(7), images=9)
    whole, first, second = StreamingEvaluation(), StreamingEvaluation(), StreamingEvaluation()
    whole.add(maps, masks)
    first.add(maps[:4], masks[:4])
    second.add(maps[4:], masks[4:])
    first.merge(second)
    expected, found = whole.result(), first.result()
    for name in (*NAMES, "image_auroc", "pixel_f1max_threshold"):
        assert found[name] == pytest.approx(expected[name], abs=1e-14)
    assert found["about"] == expected["about"]
    with pytest.raises(ValueError, match="26 and 20 bits"):
        first.merge(StreamingEvaluation(20))


def test_memory_does_not_grow_with_the_set() -> None:
    rng = np.random.default_rng(0)
    masks = rng.random((4, 256, 256)) < 0.02
    maps = rng.random((4, 256, 256), np.float32) + 1
    stream = StreamingEvaluation()

    def run(times: int) -> int:
        for _ in range(times):
            stream.add(maps, masks)
        stream.result()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        few = run(20)
        many = run(60)
    finally:
        tracemalloc.stop()
    assert many - few < 100_000  # image scores alone; 240 maps more are 63 MB


def test_nan_and_bits_are_refused() -> None:
    with pytest.raises(ValueError, match="bits is 30"):
        StreamingEvaluation(30)
    maps = np.zeros((2, 3, 3), np.float32)
    maps[1, 0, 0] = np.nan
    with pytest.raises(ValueError, match=r"maps\[1\] contains NaN"):
        StreamingEvaluation().add(maps, np.zeros((2, 3, 3), bool), [0.0, 0.0])
