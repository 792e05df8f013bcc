"""Checks that several operators share, and those of regions."""

import numpy as np
import pytest
import torch
from bikd_kernels import region_counts, region_maps
from bikd_kernels.checks import blur_sigma, number, size_pair, whole


def test_numbers_of_numpy_are_taken() -> None:
    assert size_pair("size", np.int64(16)) == size_pair("size", 16) == size_pair("size", [16, np.int32(16)]) == (16, 16)
    found = size_pair("size", (np.int64(3), 5))
    assert found == (3, 5) and all(type(n) is int for n in found)
    assert type(number("x", np.float32(0.5))) is type(blur_sigma(2)) is float and type(whole("n", np.uint8(3))) is int


@pytest.mark.parametrize(("size", "message"), [
    ((16,), r"size must be \(height, width\) or one whole number, got \(16,\)"), ((16, 16, 16), r"size must be \(height, width\)"),
    (16.0, "size must be a whole number, got 16.0"), ((16.5, 16), "size must be a whole number, got 16.5"),
    (None, "size must be a whole number, got None"), ("16", "size must be a whole number, got '16'"),
    (True, "size must be a whole number, got True"), ((16, 0), "size must be at least 1 x 1, got 16 x 0"),
])  # fmt: skip
def test_sizes(size: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        size_pair("size", size)


@pytest.mark.parametrize(("value", "message"), [
    (2.5, "topk must be a whole number, got 2.5"), ("3", "topk must be a whole number, got '3'"), (True, "got True"),
    (None, "got None"), (0, "topk must be at least 1, got 0"),
])  # fmt: skip
def test_whole_numbers(value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        whole("topk", value, 1)


@pytest.mark.parametrize("sigma", ["a", None, -1.0, float("inf"), float("nan"), np.float32("inf"), 1j, [1.0]])
def test_sigmas(sigma: object) -> None:
    with pytest.raises(ValueError, match=r"sigma must be a finite number >= 0 \(pixels of the map; 0 is no blur\), got "):
        blur_sigma(sigma)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: region_maps(torch.zeros(8, 8), [(2, 2)]), r"mask must have shape \(B, H, W\)"),
    (lambda: region_maps([1], [(2, 2)]), "mask must be a tensor, got list"),
    (lambda: region_maps(torch.zeros(1, 8, 8), [2]), r"sizes\[0\] must be \(height, width\), got 2"),
    (lambda: region_maps(torch.zeros(1, 8, 8), 2), r"sizes must be a list of \(height, width\), got int"),
    (lambda: region_maps(torch.zeros(1, 8, 8), [(2, 0)]), r"sizes\[0\] must be at least 1 x 1"),
    (lambda: region_counts([]), "regions holds no maps"), (lambda: region_counts([0]), r"regions\[0\] must be a"),
])  # fmt: skip
def test_regions(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
