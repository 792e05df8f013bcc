"""Shares of a map's parts, chosen by defects made on held-out good pictures."""

import json
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from tiny import one_category

from bikd_fast.inference import mixing
from bikd_fast.training import distributed
from bikd_fast.training.run import train
from bikd_fast.validation.made import simulated

GOOD = torch.randint(60, 160, (6, 3, 64, 64), generator=torch.Generator().manual_seed(0)).byte()
DETECTOR = SimpleNamespace(device="cpu", finished=lambda anomaly: (anomaly, anomaly.flatten(1).amax(1)))
REACHES = [(0.0, 1.0)] * 3


def noise(count, seed):
    return torch.rand(count, 64, 64, generator=torch.Generator().manual_seed(seed))


def seeing(good_part):
    """Parts of which one shows every defect, though not loudly, and the others nothing."""
    masks = torch.from_numpy(simulated("shares", GOOD).masks)
    made = [noise(len(masks), part) for part in range(3)]
    made[good_part] = 0.2 * made[good_part] + 0.5 * masks
    return lambda detector, pictures: made


@pytest.mark.parametrize(("good_part", "expected"), [(0, (3, 1, 1.5)), (1, (1, 3, 1.5)), (2, (1, 1, 6))])
def test_the_part_that_shows_defects_gets_the_most(monkeypatch, good_part, expected):
    monkeypatch.setattr(mixing, "parts", seeing(good_part))
    assert mixing.choose(DETECTOR, GOOD, REACHES) == expected


def test_nothing_is_chosen_from_too_little_or_where_there_is_nothing_to_choose(monkeypatch):
    monkeypatch.setattr(mixing, "parts", seeing(2))
    assert mixing.choose(DETECTOR, GOOD[:3], REACHES) == mixing.SHARES
    assert mixing.choose(DETECTOR, GOOD, [(0.0, 1.0), None, None]) == mixing.SHARES
    monkeypatch.setattr(mixing, "parts", lambda *_: [torch.zeros(len(simulated("shares", GOOD).masks), 64, 64)] * 3)
    assert mixing.choose(DETECTOR, GOOD, REACHES) == mixing.SHARES  # all alike: the first


def test_a_good_picture_peaks_at_one_whatever_the_shares():
    maps = [noise(5, part) * (part + 1) - part for part in range(3)]
    reaches = [mixing.reach(found) for found in maps]
    for some in mixing.CANDIDATES:
        *scales, shift = mixing.mixed(reaches, some)
        peaks = [scale * found.amax((1, 2)).mean().item() for scale, found in zip(scales, maps)]
        assert sum(peaks) + shift == pytest.approx(1, abs=1e-5)
    assert mixing.mixed([reaches[0], None, None], mixing.SHARES)[1:3] == (0.0, 0.0)


def test_a_run_chooses_where_it_is_asked_to_and_says_what(tiny_mvtec, tmp_path):
    options = ("--training.steps", "3", "--data.holdout", "0.4", "--map.shares", "chosen")
    try:
        run = train(one_category(tiny_mvtec, tmp_path / "run", *options), distributed.start())
    finally:
        distributed.stop()
    with safe_open(run / "detector.safetensors", framework="pt") as file:
        described = json.loads(file.metadata()["bikd_fast"])
    assert tuple(described["about"]["shares"]) in mixing.CANDIDATES and described["map"]["shares"] == "chosen"
