"""The Mahalanobis distance: what its whitening is, what it sees, and that borders and few pictures do not spoil it."""

import pytest
import torch
from tiny_detector import make_detector

from bikd_fast.inference import calibration, mixing
from bikd_fast.inference.calibration import calibrate, measure_good
from bikd_fast.models import mahalanobis
from bikd_fast.models.detector import Detector
from bikd_fast.models.mahalanobis import Mahalanobis, clusters, whitening


def covariance(channels, seed=0):
    factor = torch.randn(channels, channels, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return factor @ factor.T + 0.1 * torch.eye(channels, dtype=torch.float64)


def test_whitening_of_many_samples_inverts_the_covariance():
    known = covariance(6)
    found = whitening(known, 1e9)
    torch.testing.assert_close(found @ known @ found.T, torch.eye(6, dtype=torch.float64), rtol=0, atol=5e-3)


def test_whitening_of_few_samples_trusts_variances_only():
    samples = torch.randn(3, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    known = samples.T @ samples / 3  # of rank 3: has no inverse
    found = whitening(known, 3)
    assert found.isfinite().all()
    correlated = found / found.diagonal().abs() - torch.eye(40)
    assert correlated.abs().max() < 2
    assert found.norm() < 1e3


def test_a_channel_that_never_varies_does_not_decide():
    known = torch.diag(torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64))
    assert whitening(known, 1e6)[2, 2] < 50


def two_kinds(count, seed):
    """(2 count, 2): two far kinds of positions, each scattered along its own line, the lines parallel."""
    draw = torch.Generator().manual_seed(seed)
    along = torch.randn(2 * count, 1, generator=draw) * torch.tensor([1.0, 1.0])
    kind = torch.arange(2 * count).remainder(2).mul(20.0).sub(10).unsqueeze(1) * torch.tensor([1.0, -1.0])
    return along + kind + 0.1 * torch.randn(2 * count, 2, generator=draw)


def test_clusters_are_found_and_the_scatter_is_what_is_left_within_them(monkeypatch):
    monkeypatch.setattr(mahalanobis, "CENTRES", 2)
    rows = two_kinds(2000, 0)
    mean, whiten, centres = clusters(rows, 1)
    assert centres.shape == (2, 2)
    back = torch.linalg.solve(whiten, centres.T).T + mean
    torch.testing.assert_close(back[back[:, 0].argsort()], torch.tensor([[-10.0, 10.0], [10.0, -10.0]]), rtol=0, atol=0.2)
    between, beside = (((torch.tensor(x) - mean) @ whiten.T - centres).norm(dim=1).amin() for x in ([0.0, 0.0], [10.5, -9.5]))
    assert between > 50 and beside < 1  # the place between the kinds, which one Gaussian would call the most normal of all


def test_a_cluster_that_lost_its_members_is_left_out(monkeypatch):
    monkeypatch.setattr(mahalanobis, "LEAST_MEMBERS", 10)
    rows = torch.arange(3.0).repeat(40)[:, None] * torch.ones(1, 2)  # three places, and twelve clusters asked for
    _, whiten, centres = clusters(rows, 1)
    assert 2 <= len(centres) <= 12
    assert whiten.isfinite().all() and centres.isfinite().all()


def test_few_positions_have_one_gaussian():
    rows = torch.randn(2 * mahalanobis.LEAST_MEMBERS - 1, 3, generator=torch.Generator().manual_seed(0))
    mean, whiten, centres = clusters(rows, 1)
    assert torch.equal(centres, torch.zeros(1, 3))
    assert torch.equal(mean, rows.mean(0))
    assert ((rows - mean) @ whiten.T).square().mean() == pytest.approx(1, rel=0.1)


def test_positions_are_drawn_from_all_pictures_and_no_more_than_wanted(monkeypatch):
    monkeypatch.setattr(mahalanobis, "POSITIONS", 100)
    module = Mahalanobis([1, 1], [(16, 16), (8, 8)])
    levels = [torch.arange(10.0).view(-1, 1, 1, 1).expand(-1, 1, side, side) for side in (16, 8)]
    found = module._some_positions([[level[:7] for level in levels], [level[7:] for level in levels]], 10)
    assert [rows.shape for rows in found] == [(100, 1), (100, 1)]
    assert all(len(rows.round().unique()) == 10 for rows in found)


def smooth_levels(count, seed):
    """Two channels that move together, and a level of one that does not: (count, 2, 16, 16) and (count, 1, 8, 8)."""
    draw = torch.Generator().manual_seed(seed)
    shared = torch.randn(count, 1, 16, 16, generator=draw)
    own = 0.05 * torch.randn(count, 2, 16, 16, generator=draw)
    return [shared + own + 3, torch.randn(count, 1, 8, 8, generator=draw)]


@pytest.fixture(scope="module")
def fitted():
    module = Mahalanobis([2, 1], [(16, 16), (8, 8)])
    batches = [smooth_levels(20, 0), smooth_levels(20, 1)]
    module.fit(lambda: batches, 40)
    return module


def test_good_pictures_are_at_the_number_of_levels(fitted):
    distance = fitted(smooth_levels(200, 2))
    assert distance.shape == (200, 16, 16)
    assert distance.mean() == pytest.approx(2, rel=0.1)


def test_a_small_change_against_the_scatter_is_far_and_a_large_one_along_it_is_not(fitted):
    along, against = smooth_levels(1, 3), smooth_levels(1, 3)
    along[0][:, :, 4:9, 4:9] += torch.tensor([0.6, 0.6]).view(2, 1, 1)
    against[0][:, :, 4:9, 4:9] += torch.tensor([0.3, -0.3]).view(2, 1, 1)
    base = fitted(smooth_levels(1, 3))[0, 5:8, 5:8].mean()
    assert fitted(against)[0, 5:8, 5:8].mean() > base + 3
    assert fitted(along)[0, 5:8, 5:8].mean() < base + 2


def test_borders_that_always_differ_are_not_far(monkeypatch):
    monkeypatch.setattr(mahalanobis, "CENTRES", 1)  # a cluster of their own would mend part of it

    def levels(seed):
        x = torch.randn(30, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
        x[:, :, 0] += 8  # as padding makes it
        return [x]

    module = Mahalanobis([3], [(16, 16)])
    module.fit(lambda: [levels(0)], 30)
    raw = module._distance(0, levels(1)[0]).mean(0)
    assert raw[0].mean() > 2 * raw[4:].mean()  # there is something to mend
    distance = module(levels(1)).mean(0)
    assert distance[0].mean() == pytest.approx(distance[4:].mean().item(), rel=0.15)


def test_batches_do_not_matter(monkeypatch):
    # With a centre for every position distances are near 0, where the root of |x|^2 - 2xc + |c|^2 magnifies a sum's last bits.
    monkeypatch.setattr(mahalanobis, "CENTRES", 4)
    whole = smooth_levels(40, 5)
    parts = [[level[i : i + 7] for level in whole] for i in range(0, 40, 7)]
    one, other = Mahalanobis([2, 1], [(16, 16), (8, 8)]), Mahalanobis([2, 1], [(16, 16), (8, 8)])
    one.fit(lambda: [whole], 40)
    other.fit(lambda: parts, 40)
    for name, value in one.named_buffers():
        torch.testing.assert_close(value, dict(other.named_buffers())[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model", [{}, {"head": False}, {"mahalanobis": False}, {"head": False, "mahalanobis": False}])
def test_parts_have_their_shares_and_travel_with_the_detector(model, tmp_path):
    detector = make_detector(teacher="test_efficientnet", **model)
    pictures = (torch.rand(12, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 255).to(torch.uint8)
    measure_good(detector, pictures[:8])
    calibrate(detector, pictures[8:])
    maps, scores = detector(pictures[8:].float() / 255)
    features = detector.features(pictures[8:].float() / 255)
    parts = zip(mixing.SHARES, detector.mix, detector.parts(*features))
    there = [(share, weight, part) for share, weight, part in parts if part is not None]
    whole = sum(share for share, _, _ in there)
    assert len(there) == 3 - sum(not on for on in model.values())
    mixed = sum(w * part for _, w, part in there) + detector.mix[3]
    torch.testing.assert_close(maps, detector.filled(mixed), rtol=1e-4, atol=1e-4)
    if len(there) > 1:
        for share, weight, part in there:
            above = part.amax((1, 2)).mean() - part.median()
            assert weight * above.item() == pytest.approx(share / whole, rel=1e-3)
    detector.save(tmp_path / "detector.safetensors")
    again = Detector.load(tmp_path / "detector.safetensors")
    assert torch.equal(again(pictures.float() / 255)[1][8:], scores)


@pytest.mark.parametrize("adapter", [True, False])
def test_features_that_fit_are_held_and_others_computed_twice_to_the_same_end(adapter, monkeypatch):
    monkeypatch.setattr(calibration, "MEASURED", 10)
    pictures = (torch.rand(19, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 255).to(torch.uint8)
    detector = make_detector(teacher="test_efficientnet", adapter=adapter)
    frozen = detector.backbone(torch.zeros(1, 3, 64, 64))
    teacher = frozen if detector.adapter is None else detector.adapter.adapt(frozen)
    needed, ran, found = 4 * 10 * sum(level[0].numel() for level in teacher), [], []
    detector.backbone.net.register_forward_hook(lambda *_: ran.append(1))
    for room, times in ((needed, 2), (needed - 1, 4)):  # two batches
        monkeypatch.setattr(calibration, "HELD", room)
        ran.clear()
        measure_good(detector, pictures)
        assert len(ran) == times
        found.append({name: value.clone() for name, value in detector.mahalanobis.named_buffers()})
    measure_good(detector, pictures[::2])
    found.append(dict(detector.mahalanobis.named_buffers()))
    assert all(torch.equal(value, other[k]) for k, value in found[0].items() for other in found[1:])
    assert not torch.equal(found[0]["whitening_0"], torch.eye(len(found[0]["mean_0"])))


def test_with_nothing_held_out_the_parts_are_scaled_on_training_pictures():
    detector = make_detector(teacher="test_efficientnet")
    pictures = (torch.rand(6, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 255).to(torch.uint8)
    measure_good(detector, pictures)
    calibrate(detector, pictures[:0], pictures)
    assert detector.threshold.isnan()
    known = make_detector(teacher="test_efficientnet")
    measure_good(known, pictures)
    calibrate(known, pictures)
    assert detector.mix == known.mix != (1.0, 1.0, 1.0, 0.0)


def test_the_map_is_weighed_on_some_held_out_pictures_and_the_threshold_is_of_all(monkeypatch):
    """The networks run over 6 of 30 twice (a batch each) and over all once (four batches)."""
    monkeypatch.setattr(calibration, "MEASURED", 6)
    pictures = (torch.rand(30, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 255).to(torch.uint8)
    detector, same, ran = make_detector(teacher="test_efficientnet"), make_detector(teacher="test_efficientnet"), []
    for made in (detector, same):
        measure_good(made, pictures)
    detector.backbone.net.register_forward_hook(lambda *_: ran.append(1))
    calibrate(detector, pictures)
    assert len(ran) == 1 + 1 + 4 and detector.about["threshold"]["n"] == 30
    calibration.weigh(same, pictures[calibration.evenly(30, 6)])
    assert same.mix == detector.mix and same.level_weights == detector.level_weights
