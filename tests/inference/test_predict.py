"""Detector.predict: every kind of picture gives the same numbers, what is no picture is refused."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from tiny_detector import make_detector, make_picture

from bikd_fast.data import DataError, Sample, load_images
from bikd_fast.inference.colours import colour_range
from bikd_fast.inference.inputs import InputError
from bikd_fast.inference.prediction import judged
from bikd_fast.inference.runner import run as run_tensor
from bikd_fast.models.detector import FILE_NAME, Detector, DetectorError


def files(pictures):
    return sorted(pictures.glob("*/*.png"))


def test_prediction_equals_evaluation(detector, pictures):
    paths = files(pictures)
    squares, _, _ = load_images([Sample(p) for p in paths], 64)
    known = run_tensor(detector, squares)
    found = detector.predict(paths)
    torch.testing.assert_close(found.scores, known.scores)
    torch.testing.assert_close(found.maps, known.maps)
    assert len(found) == 10 and found.labels.sum() == 5
    assert torch.equal(found.labels, found.scores >= found.threshold)
    assert torch.equal(found.masks, found.maps >= found.pixel_threshold) and 0 < found.masks.float().mean() < 0.5


def test_every_kind_of_picture_gives_the_same_numbers(detector, pictures):
    paths = files(pictures)[:3]
    known = detector.predict(paths)
    arrays = [np.asarray(Image.open(p)) for p in paths]
    tensors = [torch.from_numpy(a.copy()).permute(2, 0, 1) for a in arrays]
    deep = [a.astype(np.uint16) * 257 for a in arrays]
    for given in (
        [str(p) for p in paths],
        (p for p in paths),
        [Image.open(p) for p in paths],
        arrays,
        np.stack(arrays),
        torch.stack(tensors),
        deep,
        [paths[0], arrays[1], Image.open(paths[2])],
    ):
        torch.testing.assert_close(detector.predict(given).scores, known.scores, rtol=1e-5, atol=1e-6)
    for alone in (paths[0], str(paths[0]), arrays[0], tensors[0], Image.open(paths[0])):
        torch.testing.assert_close(detector.predict(alone).scores, known.scores[:1], rtol=1e-5, atol=1e-6)


def test_floats_and_integers_agree_up_to_the_rounding_of_the_resize(detector):
    square = make_picture(1, 64, 64)
    torch.testing.assert_close(
        detector.predict(square).scores, detector.predict(square.astype(np.float64) / 255).scores, rtol=1e-5, atol=1e-6
    )
    mixed = detector.predict([square, square.astype(np.float32) / 255, square])
    torch.testing.assert_close(mixed.scores, mixed.scores[[1, 0, 2]], rtol=1e-5, atol=1e-6)


def test_gray_is_three_equal_channels(detector):
    gray = make_picture(2)[:, :, 0]
    known = detector.predict(np.repeat(gray[:, :, None], 3, 2)).scores
    for same in (gray, gray[:, :, None], torch.from_numpy(gray.copy()), Image.fromarray(gray)):
        assert torch.equal(detector.predict(same).scores, known)


def test_order_and_batch_do_not_matter(detector, pictures):
    paths = files(pictures)
    forward = detector.predict(paths).scores
    torch.testing.assert_close(detector.predict(paths[::-1]).scores.flip(0), forward, rtol=1e-5, atol=1e-6)
    assert len(detector.predict([])) == 0 and detector.predict([]).maps.shape == (0, 64, 64)


def test_without_thresholds_nothing_is_judged():
    found = make_detector().predict(make_picture(0))
    assert found.labels is None and found.masks is None and np.isnan(found.threshold)


@pytest.mark.parametrize(
    "bad, message",
    [
        (np.zeros((64, 64, 4), np.uint8), r"\(64, 64, 4\)"),
        (np.zeros((3, 64, 64), np.uint8), r"\(3, 64, 64\)"),
        (np.zeros((64, 64, 3), np.int64), "int64"),
        (np.full((64, 64, 3), 1.5), "1.5"),
        (np.full((64, 64, 3), -1.0), "normalised"),
        (np.full((64, 64, 3), np.nan), "nan"),
        (np.zeros((0, 64, 3), np.uint8), "empty"),
        (torch.zeros(64, 64, 3), r"\(64, 64, 3\)"),
        (torch.zeros(3, 64, 64, dtype=torch.int32), "int32"),
        ([3], "int"),
        (None, "NoneType"),
    ],
)
def test_what_is_no_picture_is_refused(detector, bad, message):
    with pytest.raises(InputError, match=message):
        detector.predict(bad)


def test_a_missing_file_is_named(detector, pictures):
    with pytest.raises(DataError, match=r"nowhere\.png"):
        detector.predict([files(pictures)[0], pictures / "nowhere.png"])


def test_inputs_are_not_written_to(detector):
    array = make_picture(3, 64, 64).astype(np.float32) / 255
    before = array.copy()
    detector.predict(array)
    assert np.array_equal(array, before)


def test_what_is_no_number_is_not_called_normal(detector):
    with pytest.raises(InputError, match=r"picture 1: its score is not a number"):
        judged(detector, torch.tensor([0.1, float("nan")]), torch.zeros(2, 64, 64))


@pytest.mark.parametrize("spoilt", ["head", "backbone"])
def test_a_detector_with_a_broken_number_is_not_loaded(detector, tmp_path, spoilt):
    detector.save(tmp_path / FILE_NAME)
    with safe_open(tmp_path / FILE_NAME, framework="pt") as file:
        tensors, about = {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118
    name = next(key for key in tensors if tensors[key].is_floating_point() and key.startswith(spoilt))
    tensors[name].view(-1)[0] = float("nan")
    save_file(tensors, tmp_path / FILE_NAME, metadata=about)
    with pytest.raises(DetectorError, match=rf"detector\.safetensors: {name} holds what is no number"):
        Detector.load(tmp_path)


CUT, EMPTY, OVERWRITTEN = (lambda d: d[: len(d) // 2]), (lambda d: b""), (lambda d: d.replace(b"NUMPY", b"MUMPS"))


@pytest.mark.parametrize("damage", [CUT, EMPTY, OVERWRITTEN], ids=["cut", "empty", "overwritten"])
def test_colours_come_from_the_threshold_where_predictions_are_damaged(tmp_path, damage):
    np.savez(tmp_path / "predictions.npz", map=np.ones((2, 4, 4), np.float16), label=np.array([0, 1]), path=np.array(["a", "b"]))
    file = tmp_path / "predictions.npz"
    file.write_bytes(damage(file.read_bytes()))
    assert colour_range(tmp_path, 2.0) == pytest.approx((1.2, 2.8))
