"""What evaluate() accepts, how maps meet masks of another size, and what it refuses with which words."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bikd_fast.metrics import device, evaluate, inputs, to_json
from bikd_fast.metrics.device import count_pixels as count_on_device
from bikd_fast.metrics.inputs import fit
from bikd_fast.metrics.ladder import count_pixels


@pytest.mark.parametrize("size", [(20, 30), (7, 90), (3, 2), (11, 13)])
def test_fit_is_bilinear_with_half_pixel_centres(size: tuple[int, int]) -> None:
    plane = np.random.default_rng(0).normal(size=(11, 13))
    expected = torch.nn.functional.interpolate(torch.from_numpy(plane)[None, None], size, mode="bilinear")[0, 0]
    np.testing.assert_allclose(fit(plane, size), expected.numpy(), atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_fit_gives_the_same_bits_in_torch_and_numpy(dtype: torch.dtype) -> None:
    plane = torch.randn(9, 14, dtype=torch.float64).to(dtype)
    np.testing.assert_array_equal(fit(plane, (31, 17)).numpy(), fit(plane.numpy(), (31, 17)))


def test_fit_keeps_a_constant_map_constant() -> None:
    assert np.unique(fit(np.full((5, 6), 0.1, np.float32), (17, 23))).tolist() == [np.float32(0.1)]


def test_resized_maps_are_evaluated_as_if_resized_before() -> None:
    rng = np.random.default_rng(0)
    masks = [rng.random((40, 50)) < 0.1, rng.random((23, 31)) < 0.1, np.zeros((16, 16), bool)]
    maps = [rng.normal(size=(16, 16)).astype(np.float32) for _ in masks]
    scores = [m.max() for m in maps]
    before = [fit(m, k.shape) for m, k in zip(maps, masks)]
    assert evaluate(maps, masks, memory_mb=0.001, threads=2) == evaluate(before, masks, scores)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bit_maps_are_exact(dtype: torch.dtype) -> None:
    masks = torch.rand(3, 20, 20) < 0.2
    maps = (torch.randn(3, 20, 20) + masks).to(dtype)
    assert evaluate(maps, masks) == evaluate(maps.double(), masks)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_device_code_counts_what_the_sort_counts(dtype: type) -> None:
    rng = np.random.default_rng(0)
    maps = [rng.normal(size=s).round(1).astype(dtype) for s in ((30, 40), (16, 16), (25, 25))]
    maps[0][0, :3] = np.inf, -np.inf, -0.0
    sizes = [(30, 40), (20, 28), (25, 25)]
    maps[1] = rng.normal(size=(16, 16)).astype(dtype)
    values = np.unique(np.concatenate([maps[0].ravel()[::7], maps[2].ravel()[::5], np.array([np.inf, 9.0], dtype)]))
    tensors = [torch.from_numpy(m) for m in maps]
    for images in (None, [0, 2], []):
        expected = count_pixels(maps, sizes, values, images=images, threads=2)
        for memory in (1.0, 1e-6):
            found = count_on_device(tensors, sizes, values, images=images, memory_mb=memory)
            np.testing.assert_array_equal(found[0], expected[0])
            np.testing.assert_array_equal(found[1], expected[1])
    assert count_on_device(tensors, sizes, values[:0])[0].size == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_whole_evaluation_in_torch_has_the_same_bits(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """CPU tensors, kept from becoming NumPy arrays, take the path of GPU tensors."""
    generator = torch.Generator().manual_seed(0)
    masks = torch.rand(6, 45, 50, generator=generator) < 0.05
    masks[:2] = False
    maps = list((torch.randn(6, 45, 50, generator=generator) + masks).to(dtype))
    maps[1] = maps[1][:20, :31]
    maps[4] = maps[4][:30, :20]
    expected = to_json(evaluate(maps, masks, aupimo=True, curves=30))
    monkeypatch.setattr(inputs, "plane_of", lambda value: value)
    asked: list[int] = []
    count = device.count_pixels
    monkeypatch.setattr(device, "count_pixels", lambda *a, **k: asked.append(1) or count(*a, **k))
    assert to_json(evaluate(maps, masks.to(torch.uint8), aupimo=True, curves=30)) == expected
    assert asked


def test_counts_against_plain_comparison() -> None:
    maps = np.random.default_rng(0).integers(0, 30, (2, 9, 9)).astype(np.float32)
    values = np.array([-1, 3, 4, 29, 99], np.float32)
    below, at = count_pixels(list(maps), [(9, 9)] * 2, values)
    assert below.tolist() == [(maps < v).sum() for v in values]
    assert at.tolist() == [(maps == v).sum() for v in values]


GOOD = np.zeros((2, 4, 4), np.float32)
MASK = np.zeros((2, 4, 4), bool)
MARKED = np.ones((4, 4), bool)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "words"),
    [
        ((GOOD, MASK[:1]), {}, ValueError, "2 maps for 1 masks"),
        ((GOOD[0], MASK[0]), {}, ValueError, r"maps\[0\] has shape \(4,\)"),
        ((GOOD.astype(np.uint8), MASK), {}, TypeError, r"maps\[0\] is uint8"),
        ((GOOD, MASK.astype(np.float32)), {}, TypeError, r"masks\[0\] is float32"),
        ((GOOD, MASK, [1.0]), {}, ValueError, r"scores have shape \(1,\) for 2 maps"),
        ((GOOD, MASK, [1.0, np.nan]), {}, ValueError, r"scores\[1\] contains NaN"),
        ((GOOD, MASK, None, [0, 2]), {}, ValueError, r"labels must be 0 .* found \[2\]"),
        ((GOOD, MASK), {"kinds": ["good"]}, ValueError, "1 kinds for 2 maps"),
        ((GOOD, MASK), {"fpr_limit": 0.0}, ValueError, "fpr_limit is 0.0"),
        ((GOOD, MASK), {"indices": [5, 5]}, ValueError, "image index 5 was given twice"),
        (([np.zeros((0, 4), np.float32)], [MASK[0]]), {}, ValueError, r"maps\[0\] has no pixels"),
        (([np.full((2, 2), np.inf, np.float32)], [MARKED]), {}, ValueError, "infinite values cannot be resized"),
    ],
)
def test_refusals_name_the_fault(arguments: tuple, options: dict, error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        evaluate(*arguments, **options)


@pytest.mark.parametrize("place", ["normal", "anomalous"])
@pytest.mark.parametrize("as_tensor", [False, True])
@pytest.mark.parametrize("aupimo", [False, True])
def test_nan_is_an_error_naming_the_map(place: str, as_tensor: bool, aupimo: bool) -> None:
    maps = np.zeros((5, 6, 6), np.float32)
    masks = np.zeros((5, 6, 6), bool)
    masks[3, 2, 2] = True
    maps[3, 2, 2 if place == "anomalous" else 3] = np.nan
    with pytest.raises(ValueError, match=r"maps\[3\] contains NaN"):
        evaluate(torch.from_numpy(maps) if as_tensor else maps, masks, scores=np.zeros(5), aupimo=aupimo)
    if as_tensor:
        with pytest.raises(ValueError, match=r"maps\[3\] contains NaN"):
            count_on_device(list(torch.from_numpy(maps)), [(6, 6)] * 5, np.zeros(1, np.float32))


def test_no_images_at_all() -> None:
    found = evaluate([], [])
    assert np.isnan(found["aupro"])
    assert found["about"]["images"] == 0
