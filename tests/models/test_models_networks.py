"""Teacher's adapter, students, detector file."""

import json

import pytest
import torch

from bikd_fast.config import MapConfig, ModelConfig
from bikd_fast.models.detector import Detector, DetectorError
from bikd_fast.models.students import STUDENTS
from bikd_fast.models.teacher import Adapter

CHANNELS, STRIDES = (24, 40, 112), (4, 8, 16)
LEARNING = [name for name in STUDENTS if name != "bank"]


def features(batch=2, side=64):
    return [torch.randn(batch, c, side // s, side // s) for c, s in zip(CHANNELS, STRIDES)]


def test_the_teacher_starts_as_the_backbone_exactly():
    levels = features()
    for t, e in zip(Adapter(CHANNELS).adapt(levels), levels):
        assert torch.equal(t, e)


@pytest.mark.parametrize("bound", [0.1, 0.5, 0.9])
def test_the_angle_between_teacher_and_backbone_is_bounded(bound):
    """|T - E| <= r |E| channel by channel, so the angle is at most arcsin(r), whatever the adapter has become."""
    torch.manual_seed(0)
    adapter = Adapter(CHANNELS, bound)
    for parameter in adapter.parameters():
        parameter.data.normal_(0, 5)
    levels = features()
    for t, e in zip(adapter.adapt(levels), levels):
        cosine = torch.nn.functional.cosine_similarity(t.double(), e.double(), dim=1)
        assert (cosine >= (1 - bound**2) ** 0.5 - 1e-6).all()
        assert cosine.min() < 1 - 1e-3  # and it does move


@pytest.mark.parametrize("name", LEARNING)
@pytest.mark.parametrize("shape", [(64, 64), (96, 64)])
def test_students_give_the_shapes_of_their_targets(name, shape):
    student = STUDENTS[name](CHANNELS, STRIDES, size=0.125)
    levels = [torch.randn(2, c, shape[0] // s, shape[1] // s) for c, s in zip(CHANNELS, STRIDES)]
    outputs, targets = student(torch.rand(2, 3, *shape), levels), student.targets(levels)
    assert [o.shape for o in outputs] == [f.shape for f in targets]
    assert tuple(o.shape[1] for o in outputs) == student.channels


@pytest.mark.parametrize("name", LEARNING)
def test_size_is_a_parameter(name):
    small, large = (sum(p.numel() for p in STUDENTS[name](CHANNELS, STRIDES, size=s).parameters()) for s in (0.25, 0.5))
    assert 2 < large / small < 5


@pytest.mark.parametrize("name", LEARNING)
def test_a_picture_does_not_depend_on_its_batch(name):
    """No batch statistics: the same picture alone and among others gives the same features."""
    torch.manual_seed(0)
    student = STUDENTS[name](CHANNELS, STRIDES, size=0.125).train()
    pictures, levels = torch.rand(3, 3, 64, 64), features(3)
    together = student(pictures, levels)
    alone = student(pictures[1:2], [f[1:2] for f in levels])
    for a, b in zip(together, alone):
        assert torch.allclose(a[1:2], b, atol=1e-5)


@pytest.mark.parametrize("strides", [(4,), (8, 16), (1, 2, 4), (4, 8, 16, 32), (16, 16, 16)])
def test_students_serve_any_levels(strides):
    channels = [8 * (i + 1) for i in range(len(strides))]
    levels = [torch.randn(1, c, 64 // s, 64 // s) for c, s in zip(channels, strides)]
    for name in LEARNING:
        if name == "relation" and len(strides) < 2:
            continue
        student = STUDENTS[name](channels, strides, size=0.125)
        outputs = student(torch.rand(1, 3, 64, 64), levels)
        assert [o.shape for o in outputs] == [f.shape for f in student.targets(levels)]


@pytest.fixture
def detector():
    torch.manual_seed(0)
    made = Detector(ModelConfig(weights="random", size=0.125), MapConfig(), 64)
    made.backbone.fold()
    made.threshold.fill_(0.5)
    made.level_weights = (0.5, 1.0, 1.5)
    made.about = {"categories": ["x"]}
    return made.eval()


def test_saved_and_loaded_it_is_the_same(detector, tmp_path):
    detector.save(tmp_path)
    again = Detector.load(tmp_path)
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        for a, b in zip(detector(x), again(x)):
            assert torch.equal(a, b)
    assert again.level_weights == (0.5, 1.0, 1.5) and again.threshold == 0.5 and again.about == {"categories": ["x"]}


def test_map_and_score_have_the_right_shapes(detector):
    with torch.no_grad():
        anomaly, score = detector(torch.rand(2, 3, 64, 64))
    assert anomaly.shape == (2, 64, 64) and score.shape == (2,)
    assert torch.allclose(score, anomaly.amax((1, 2)))


def test_a_damaged_file_is_named(detector, tmp_path):
    detector.save(tmp_path)
    path = tmp_path / "detector.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DetectorError, match=r"detector\.safetensors"):
        Detector.load(tmp_path)


def test_a_foreign_safetensors_file_is_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "detector.safetensors", metadata={"bikd_fast": json.dumps({"format": 99})})
    with pytest.raises(DetectorError, match=r"a detector of format 99, and this version reads .* Train again"):
        Detector.load(tmp_path)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Description and tensors of a saved detector."""
    from safetensors import safe_open

    path = tmp_path_factory.mktemp("parts") / "detector.safetensors"
    made = Detector(ModelConfig(weights="random", size=0.125), MapConfig(), 64)
    made.backbone.fold()
    made.save(path)
    with safe_open(path, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
        return json.loads(file.metadata()["bikd_fast"]), tensors


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.forgotten", 1), ("model.teacher", 3), ("model.teacher", "hf-hub:evil/x"), ("model.teacher", "local-dir:/evil"),
        ("model.teacher", "nope"), ("model.strides", []), ("model.strides", "x"), ("model.strides", [3]), ("model.student", []),
        ("model.size", 1e4), ("model.size", -1), ("model.depth", 10**6), ("map.combine", "zz"), ("map.score", "zz"),
        ("map.sigma", -3), ("map.sigma", 1e9), ("image_size", 10**6), ("image_size", 8192), ("image_size", "64"), ("mix", "abcd"),
        ("mix", []), ("level_weights", [1.0]), ("level_weights", None), ("about", []), ("model", None),
    ],
)  # fmt: skip
def test_a_description_that_cannot_be_meant_is_refused_before_anything_large_is_built(parts, tmp_path, key, value):
    from safetensors.torch import save_file

    described = json.loads(json.dumps(parts[0]))
    *group, last = key.split(".")
    (described[group[0]] if group else described)[last] = value
    save_file(parts[1], tmp_path / "detector.safetensors", metadata={"bikd_fast": json.dumps(described)})
    said = rf"detector\.safetensors: does not fit this version of bikd_fast \(.*{key}.*: .*Train again"
    with pytest.raises(DetectorError, match=said):
        Detector.load(tmp_path)


def test_an_empty_folder_and_a_run_of_many_categories(detector, tmp_path):
    with pytest.raises(DetectorError, match="no detector"):
        Detector.load(tmp_path)
    for name in ("bolt", "nut"):
        (tmp_path / name).mkdir()
        detector.save(tmp_path / name)
    with pytest.raises(DetectorError, match=r"bolt,nut"):
        Detector.load(tmp_path)
