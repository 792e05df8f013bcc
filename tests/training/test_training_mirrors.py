"""Which copies of the training pictures are natural: asked of the pictures, not of the user."""

import pytest
import torch

from bikd_fast.models.backbone import Backbone
from bikd_fast.training.mirrors import group_numbers, natural_copies, rounds, sampled, with_copies


@pytest.fixture(scope="module")
def backbone():
    return Backbone("tf_efficientnet_lite0").load("offline")


def pictures(draw, count=8, side=64):
    generator = torch.Generator().manual_seed(0)
    x = torch.stack([draw(generator, side) for _ in range(count)]).clamp(0, 255).byte()
    return x[:, None].expand(-1, 3, -1, -1).contiguous()


def noise(generator, side):
    return 128 + 40 * torch.randn(side, side, generator=generator)


def ramp(generator, side):
    """Dark on the left, bright on the right, always: a part that lies one way."""
    return torch.linspace(20, 235, side).expand(side, side) + 4 * torch.randn(side, side, generator=generator)


def test_a_surface_without_direction_has_every_copy(backbone):
    assert natural_copies(pictures(noise), backbone) == ["left-right", "top-bottom", "half turn"]


def test_a_part_that_lies_one_way_keeps_it(backbone):
    assert natural_copies(pictures(ramp), backbone) == ["top-bottom"]


def test_too_few_pictures_show_nothing(backbone):
    assert natural_copies(pictures(noise, count=3), backbone) == []


def test_copies_follow_the_pictures_in_order():
    x = torch.arange(2 * 3 * 4 * 4, dtype=torch.uint8).view(2, 3, 4, 4)
    both = with_copies(x, rounds([["left-right", "half turn"]]), group_numbers(["a", "a"]))
    assert torch.equal(both[:2], x) and torch.equal(both[2:4], x.flip(-1)) and torch.equal(both[4:], x.flip((-2, -1)))


def test_every_category_has_its_own_copies_and_is_seen_as_often():
    groups = group_numbers(["nut", "brick", "nut"])
    assert groups.tolist() == [0, 1, 0] and [rows.tolist() for rows in sampled(groups)] == [[0, 2], [1]]
    copies = rounds([[], ["left-right", "half turn"]])
    x = torch.arange(3 * 3 * 4 * 4, dtype=torch.uint8).view(3, 3, 4, 4)
    every = with_copies(x, copies, groups).view(3, 3, 3, 4, 4)
    assert torch.equal(every[:, 0::2], x[None, 0::2].expand(3, -1, -1, -1, -1))  # the nut lies as it lies, three times
    assert torch.equal(every[1, 1], x[1].flip(-1)) and torch.equal(every[2, 1], x[1].flip((-2, -1)))
    assert rounds([[], []]) == []
