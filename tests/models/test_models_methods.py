"""Related methods' students: what they see, what they are to give, and the memory."""

import pytest
import torch
import torch.nn.functional as F

from bikd_fast.config import MapConfig, ModelConfig
from bikd_fast.models.detector import Detector
from bikd_fast.models.dual import DualStudent
from bikd_fast.models.inpainting import CELLS, SETS, InpaintingStudent, hide, masks
from bikd_fast.models.memory import NEIGHBOURS, Memory
from bikd_fast.models.relation import WINDOW, RelationStudent, relations

CHANNELS, STRIDES = (6, 8, 10), (4, 8, 16)


def features(batch=2, side=64):
    return [torch.randn(batch, c, side // s, side // s) for c, s in zip(CHANNELS, STRIDES)]


def test_relations_are_windowed_fsp_matrices():
    """At the middle of a level: the mean over the window of the outer products of unit vectors, by hand."""
    torch.manual_seed(0)
    fine, coarse = torch.rand(1, 3, 10, 10), torch.rand(1, 4, 5, 5)
    found = relations([fine, coarse])[0][0, :, 2, 2].view(3, 4)
    wanted, reach = torch.zeros(3, 4), WINDOW // 2
    for y in range(2 - reach, 3 + reach):
        for x in range(2 - reach, 3 + reach):
            a = fine[0, :, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].amax((1, 2))
            wanted += torch.outer(F.normalize(a, dim=0), F.normalize(coarse[0, :, y, x], dim=0)) / WINDOW**2
    assert torch.allclose(found, wanted, atol=1e-6)


def test_relations_say_nothing_about_lengths_and_much_about_directions():
    torch.manual_seed(0)
    levels = features()
    doubled = [2 * f for f in levels]
    swapped = [levels[0], levels[1].flip(1), levels[2]]
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(relations(levels), relations(doubled)))
    assert not torch.allclose(relations(levels)[0], relations(swapped)[0], atol=0.1)


def test_a_single_level_has_no_relations():
    with pytest.raises(ValueError, match="two levels"):
        RelationStudent((8,), (4,))


def test_dual_students_are_two_networks_with_the_teachers_levels_each():
    torch.manual_seed(0)
    student, levels = DualStudent(CHANNELS, STRIDES, size=0.125), features()
    first = student(torch.rand(2, 3, 64, 64), levels)
    other_picture = student(torch.rand(2, 3, 64, 64), levels)
    assert all(not torch.equal(a, b) for a, b in zip(first[:3], other_picture[:3]))  # the encoder sees the picture
    assert all(torch.equal(a, b) for a, b in zip(first[3:], other_picture[3:]))  # the decoder sees features alone


@pytest.mark.parametrize("side", [64, 256])
def test_every_set_of_masks_hides_everything_once(side):
    hidden = masks(side, side, 16, torch.zeros(1)).unflatten(0, (len(CELLS), SETS))
    assert torch.equal(hidden.sum(1), torch.ones(len(CELLS), side, side))
    assert (hidden.mean((2, 3)) == 1 / SETS).all()


def test_what_is_hidden_is_not_seen():
    """The restored features of a hidden position do not depend on any pixel that was hidden with it."""
    torch.manual_seed(0)
    student = InpaintingStudent(CHANNELS, STRIDES, size=0.125)
    picture, keys = torch.randn(2, 3, 64, 64), torch.tensor([5, 77])
    restored, where = student.masked(picture, keys)
    full = F.interpolate(where[-1].unsqueeze(1), size=(64, 64))  # of the coarsest level: whole cells
    assert 0 < full.mean() < 1
    changed = picture + 3 * full * torch.randn(2, 3, 64, 64)
    assert all(torch.equal(a, b) for a, b in zip(restored, student.masked(changed, keys)[0]))
    assert not torch.equal(restored[0], student.masked(picture + 1, keys)[0][0])


def test_restoration_in_use_is_put_together_from_the_single_masks():
    torch.manual_seed(0)
    student = InpaintingStudent(CHANNELS, STRIDES, size=0.125)
    picture = torch.randn(1, 3, 64, 64)
    together = student(picture)
    every = masks(64, 64, 16, picture)
    for k in range(len(CELLS)):
        wanted = torch.zeros_like(together[k * 3])
        for hidden in every[k * SETS : (k + 1) * SETS]:
            share = F.adaptive_avg_pool2d(hidden[None, None], wanted.shape[-2:])
            wanted += share * student.net(hide(picture, hidden[None, None]))[0]
        assert torch.allclose(together[k * 3], wanted, atol=1e-5)


def test_the_memory_finds_the_mean_distance_to_the_nearest():
    torch.manual_seed(0)
    memory, levels = Memory(CHANNELS, STRIDES), features()
    rows = memory.gather([f + 0.1 * torch.randn_like(f) for f in levels]).flatten(0, 2)
    memory.remember(rows, rows.mean(0), rows.std(0))
    distance = memory(None, levels)[0]
    assert distance.shape == (2, 1, 8, 8)
    seen = (memory.gather(levels).flatten(0, 2) - memory.mean) * memory.scale
    wanted = torch.cdist(seen, memory.known).topk(NEIGHBOURS, largest=False).values.mean(1)
    assert torch.allclose(distance.flatten(), wanted, atol=1e-4)


def test_what_the_memory_has_never_seen_is_farther_than_what_it_has():
    torch.manual_seed(0)
    memory, levels = Memory(CHANNELS, STRIDES), features(8)
    rows = memory.gather(levels).flatten(0, 2)
    memory.remember(rows, rows.mean(0), rows.std(0))
    odd = [f.clone() for f in levels]
    for f in odd:
        f[0, :, : f.shape[-2] // 2, : f.shape[-1] // 2] += 4
    distance = memory(None, odd)[0]
    assert distance[0, 0, :3, :3].min() > 2 * distance[1:].max()


def test_a_memory_of_any_size_is_saved_and_loaded(tmp_path):
    torch.manual_seed(0)
    model = ModelConfig(weights="random", student="bank", adapter=False, head=False, mahalanobis=False, teacher="test_efficientnet")
    detector = Detector(model, MapConfig(), 64)
    detector.backbone.fold()
    rows = torch.rand(37, detector.student.known.shape[1])
    detector.student.remember(rows, rows.mean(0), rows.std(0))
    detector.save(tmp_path)
    again = Detector.load(tmp_path)
    x = torch.rand(2, 3, 64, 64)
    assert again.student.known.shape[0] == 37
    for a, b in zip(detector.eval()(x), again(x)):
        assert torch.equal(a, b) and a.isfinite().all()


def test_channel_weights_are_saved_and_change_the_map(tmp_path):
    torch.manual_seed(0)
    model = ModelConfig(weights="random", size=0.125, head=False, teacher="test_efficientnet")
    detector = Detector(model, MapConfig(calibrate_channels=True), 64).eval()
    detector.backbone.fold()
    x = torch.rand(2, 3, 64, 64)
    before = detector(x)[0]
    plain = Detector(model, MapConfig(), 64).eval()
    plain.backbone.fold()
    plain.load_state_dict({k: v for k, v in detector.state_dict().items() if "channel_weights" not in k})
    assert torch.allclose(plain(x)[0], before, atol=1e-6)  # weights of 1 change nothing
    for weights in detector.channel_weights():
        weights.uniform_(0.1, 2)
    detector.save(tmp_path)
    changed = Detector.load(tmp_path)(x)[0]
    assert torch.equal(changed, detector(x)[0]) and not torch.allclose(changed, before, atol=1e-3)
