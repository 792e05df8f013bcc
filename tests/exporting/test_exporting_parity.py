"""Exported files give the detector's own scores, maps, labels and masks: every student, every combination, every format."""

import json
import pickle
import zipfile

import numpy as np
import pytest
import torch
from tiny_detector import make_detector, make_picture

from bikd_fast import export
from bikd_fast.config import MapConfig
from bikd_fast.exporting.formats import open_onnx, open_openvino, open_torch, write_onnx, write_openvino, write_torch
from bikd_fast.exporting.module import Exportable, describe
from bikd_fast.inference.calibration import measure_good, mix

CONFIGS = {
    "sum": MapConfig(combine="sum"),
    "mean": MapConfig(combine="mean", score="topk", topk=7),
    "product": MapConfig(combine="product"),
}
SQUARES = np.stack([make_picture(i, 64, 64) for i in range(5)])


class AllCombinations(torch.nn.Module):
    """One detector under every combination of levels, in one graph: what is slow in an export is the networks, not the maps."""

    def __init__(self, detector):
        super().__init__()
        self.picture_size, self.part = (64, 64), Exportable(detector)
        self.outputs = [f"{name}_{combine}" for combine in CONFIGS for name in self.part.outputs]

    def forward(self, pictures):
        detector = self.part.detector
        levels = detector.features(pictures.permute(0, 3, 1, 2).float() / 255)
        rest = detector.beside(*levels)
        known, found = detector.map_config, []
        detector.features, detector.beside = lambda _: levels, lambda *_: rest
        for config in CONFIGS.values():
            detector.map_config = config
            found += self.part(pictures)
        detector.map_config = known
        del detector.features, detector.beside
        return tuple(found)


def small_detector(**model):
    detector = make_detector(teacher="test_efficientnet", **model)
    pictures = torch.from_numpy(SQUARES).permute(0, 3, 1, 2).contiguous()
    measure_good(detector, pictures)  # unfitted, its whitening would be the identity
    detector.mix = mix(detector, pictures)
    seen = detector.predict(SQUARES)
    detector.threshold.fill_(seen.scores.sort().values[1:3].mean().item())
    detector.pixel_threshold.fill_(seen.maps.quantile(0.8).item())
    detector.level_weights = (0.7, 1.1, 1.2)
    return detector


@pytest.mark.parametrize("student", ["image", "reverse", "encoder"])
def test_onnx_of_every_student_and_combination(student, tmp_path):
    pytest.importorskip("onnxruntime")
    detector = small_detector(student=student, head=student != "encoder", adapter=student != "reverse")
    write_onnx(AllCombinations(detector), tmp_path / "all.onnx", {})
    found = open_onnx(tmp_path / "all.onnx")(SQUARES)  # a batch of 5; the export saw 2
    for combine, config in CONFIGS.items():
        detector.map_config = config
        known = detector.predict(SQUARES)
        np.testing.assert_allclose(found[f"score_{combine}"], known.scores, rtol=1e-4, err_msg=combine)
        np.testing.assert_allclose(found[f"map_{combine}"], known.maps, rtol=1e-3, atol=1e-4, err_msg=combine)
        assert np.array_equal(found[f"anomalous_{combine}"], known.labels)
        assert (found[f"mask_{combine}"] == known.masks.numpy()).mean() > 0.999
        assert found[f"score_{combine}"].std() > 1e-5  # not one number for all pictures
    assert not np.allclose(found["map_sum"], found["map_product"], rtol=1e-2)  # the combinations do differ


@pytest.mark.parametrize("student", ["dual", "relation", "inpainting", "bank"])
def test_onnx_of_related_methods_and_weighted_channels(student, tmp_path):
    pytest.importorskip("onnxruntime")
    config = MapConfig(calibrate_channels=student == "relation")
    model = dict(student=student, adapter=False, head=False, mahalanobis=False, teacher="test_efficientnet")
    detector = make_detector(map_config=config, **model)
    if student == "bank":
        rows = detector.student.gather(detector.backbone(torch.rand(3, 3, 64, 64))).flatten(0, 2)
        detector.student.remember(rows, rows.mean(0), rows.std(0))
    if student == "relation":
        for weights in detector.channel_weights():
            weights.uniform_(0.1, 3)
    write_onnx(Exportable(detector), tmp_path / "d.onnx", {})
    found, known = open_onnx(tmp_path / "d.onnx")(SQUARES), detector.predict(SQUARES)  # a batch of 5; the export saw 2
    np.testing.assert_allclose(found["score"], known.scores, rtol=1e-4)
    np.testing.assert_allclose(found["map"], known.maps, rtol=1e-3, atol=1e-4)
    assert found["score"].std() > 1e-5


@pytest.fixture(scope="module")
def small():
    return small_detector()


def test_torch_archive_loads_without_unpickling(small, tmp_path, monkeypatch):
    write_torch(Exportable(small), tmp_path / "d.pt2", describe(Exportable(small)))

    def refuse(*_, **__):
        raise AssertionError("something was unpickled")

    for module, name in ((pickle, "loads"), (pickle, "load"), (pickle, "Unpickler"), (torch, "load")):
        monkeypatch.setattr(module, name, refuse)
    found = open_torch(tmp_path / "d.pt2")(SQUARES)
    monkeypatch.undo()
    known = small.predict(SQUARES)
    np.testing.assert_allclose(found["score"], known.scores, rtol=1e-5)
    np.testing.assert_allclose(found["map"], known.maps, rtol=1e-3, atol=1e-4)
    assert np.array_equal(found["anomalous"], known.labels)
    with zipfile.ZipFile(tmp_path / "d.pt2") as archive:
        assert not any(name.endswith(".pkl") for name in archive.namelist())


def test_openvino(small, tmp_path):
    pytest.importorskip("openvino")
    write_openvino(Exportable(small), tmp_path / "d.xml", describe(Exportable(small)))
    found = open_openvino(tmp_path / "d.xml")(SQUARES)
    known = small.predict(SQUARES)
    np.testing.assert_allclose(found["score"], known.scores, rtol=1e-4)
    np.testing.assert_allclose(found["map"], known.maps, rtol=1e-3, atol=1e-4)
    assert np.array_equal(found["anomalous"], known.labels) and found["mask"].dtype == bool
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d.bin", "d.xml"]


def test_the_command_with_the_resize_inside(run, detector, pictures, tmp_path, capsys):
    onnx = pytest.importorskip("onnx")
    path = tmp_path / "camera.onnx"
    words = [str(run), "--category", "stripes", "--output", str(path), "--pictures", str(pictures), "--picture-size", "80", "100"]
    assert export.main(words) == 0
    assert "10 pictures checked" in capsys.readouterr().out
    record = json.loads((tmp_path / "camera.onnx.json").read_text())
    assert record["parity"]["passed"] and record["parity"]["pictures"] == 10 and record["parity"]["largest_score"] < 1e-3
    assert record["input"]["shape"] == ["batch", 80, 100, 3] and record["preprocessing"]["resize"] == "inside"
    assert record["threshold"] == detector.threshold.item() and record["categories"] == ["stripes"]
    inside = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert json.loads(inside["bikd_fast"])["pixel_threshold"] == detector.pixel_threshold.item()
    camera = np.stack([make_picture(i) for i in range(3)])
    np.testing.assert_allclose(open_onnx(path)(camera)["score"], detector.predict(camera).scores, rtol=1e-3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["camera.onnx", "camera.onnx.json"]
