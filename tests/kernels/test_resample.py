import tracemalloc

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from bikd_kernels.resample import (
    PADDINGS,
    blur_matrix,
    fold,
    gaussian_taps,
    resample_matrix,
    upsample_matrix,
    windows,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from map_cases import SCIPY_MODE
from scipy.ndimage import gaussian_filter1d

lengths = st.integers(1, 40)
sigmas = st.floats(0.3, 6.0)


@settings(max_examples=60, deadline=None)
@given(source=lengths, target=lengths, align=st.booleans())
def test_upsampling_is_torchs_bilinear(source: int, target: int, align: bool) -> None:
    eye = torch.eye(source, dtype=torch.float64)[:, None, None, :]
    expected = F.interpolate(eye, size=(1, target), mode="bilinear", align_corners=align)[:, 0, 0].T.numpy()
    np.testing.assert_allclose(upsample_matrix(source, target, align), expected, rtol=0, atol=4e-15 * source)


@settings(max_examples=100, deadline=None)
@given(length=lengths, sigma=sigmas, padding=st.sampled_from(PADDINGS))
def test_blur_is_scipys_gaussian(length: int, sigma: float, padding: str) -> None:
    expected = gaussian_filter1d(np.eye(length), sigma, axis=0, mode=SCIPY_MODE[padding])
    np.testing.assert_allclose(blur_matrix(length, sigma, padding), expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("padding", ["zeros", "replicate", "reflect", "circular"])
def test_blur_is_torchs_padded_convolution(padding: str) -> None:
    taps = torch.from_numpy(gaussian_taps(2.0))
    eye, radius = torch.eye(21, dtype=torch.float64)[:, None, :], len(taps) // 2
    padded = F.pad(eye, (radius, radius), mode="constant" if padding == "zeros" else padding)
    expected = F.conv1d(padded, taps[None, None])[:, 0].T.numpy()
    np.testing.assert_allclose(blur_matrix(21, 2.0, padding), expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("padding", ["replicate", "reflect", "symmetric", "circular"])
def test_a_constant_stays_a_constant(padding: str) -> None:
    matrix = resample_matrix(6, 25, 3.0, False, padding)
    np.testing.assert_allclose(matrix.sum(axis=1), np.ones(25), rtol=0, atol=1e-14)


@pytest.mark.parametrize("sigma", [5e-324, 1e-170, 1e-160, 0.1])
def test_a_tiny_sigma_is_no_blur(sigma: float) -> None:
    np.testing.assert_array_equal(blur_matrix(5, sigma), np.eye(5))


def test_a_wide_blur_takes_little_memory() -> None:
    tracemalloc.start()
    matrix = blur_matrix(64, 2048.0, "symmetric")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20  # 25 MiB where the taps of all rows are laid on it at once
    np.testing.assert_allclose(matrix, 1 / 64, rtol=1e-3)


def test_zero_padding_darkens_the_border_only() -> None:
    sums = resample_matrix(6, 60, 2.0, False, "zeros").sum(axis=1)
    assert sums[0] < 0.7
    assert sums[30] == pytest.approx(1.0, abs=1e-14)


@pytest.mark.parametrize("padding", ["reflect", "symmetric", "circular", "replicate"])
def test_padding_wider_than_the_axis_folds_again_as_numpy_does(padding: str) -> None:
    mode = {"circular": "wrap", "replicate": "edge"}.get(padding, padding)
    expected = np.pad(np.arange(3), 11, mode=mode)  # type: ignore[call-overload]
    np.testing.assert_array_equal(fold(np.arange(-11, 14), 3, padding), expected)


@settings(max_examples=80, deadline=None)
@given(
    source=lengths, target=lengths, sigma=st.sampled_from([0.0, 0.8, 3.0]), padding=st.sampled_from(PADDINGS),
    block=st.sampled_from([16, 32]), chunk=st.sampled_from([16, 32]),
)
def test_windows_hold_the_whole_matrix(
    source: int, target: int, sigma: float, padding: str, block: int, chunk: int
) -> None:
    matrix = resample_matrix(source, target, sigma, False, padding)
    weights, starts = windows(matrix, block, chunk)
    assert weights.shape[2] >= 16
    assert weights.shape[2] % 16 == 0
    assert weights.shape[2] <= chunk or weights.shape[2] % chunk == 0
    rebuilt = np.zeros((len(starts) * block, source))
    for k, start in enumerate(starts):
        columns = (start + np.arange(weights.shape[2])) % source
        for r in range(block):
            np.add.at(rebuilt[k * block + r], columns, weights[k, r])
    np.testing.assert_allclose(rebuilt[:target], matrix, rtol=0, atol=1e-7)
    assert not rebuilt[target:].any()


def test_windows_are_short_where_the_band_is() -> None:
    weights, _ = windows(resample_matrix(256, 1024, 4.0), 64, 32)
    assert weights.shape == (16, 64, 32)
    ring, starts = windows(resample_matrix(256, 1024, 4.0, False, "circular"), 64, 32)
    assert ring.shape == (16, 64, 32)
    assert starts[0] > 200  # the first block's run begins before the end and goes on past it


def test_matrices_are_kept_and_cannot_be_written() -> None:
    matrix = resample_matrix(5, 9, 1.0)
    assert resample_matrix(5, 9, 1.0) is matrix
    with pytest.raises(ValueError, match="read-only"):
        matrix[0, 0] = 1.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: upsample_matrix(0, 4), "source must be at least 1, got 0"),
        (lambda: resample_matrix(4, 0), "length must be at least 1, got 0"),
        (lambda: resample_matrix(4, 4, -1.0), "sigma must be a finite number >= 0"),
        (lambda: resample_matrix(4, 4, float("nan")), "sigma must be a finite number >= 0"),
        (lambda: resample_matrix(4, 4, 257.0), "sigma must be at most 64 times the map's 4 pixels, got 257.0"),
        (lambda: gaussian_taps(None), "sigma must be a finite number >= 0"),
        (lambda: resample_matrix(4, 4, 1.0, False, "mirror"), "padding must be one of zeros, replicate, reflect"),
    ],
)
def test_errors_say_what_is_wrong(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
