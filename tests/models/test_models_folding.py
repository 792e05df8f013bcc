"""Which neighbours one pass finds to be a pair: by what is read, not by what stands side by side."""

import pytest
import torch
from torch import nn

from bikd_fast.models.backbone import Backbone
from bikd_fast.models.folding import watched


class _Neighbours(nn.Module):
    def __init__(self, given) -> None:
        super().__init__()
        self.conv, self.norm, self.given = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), given
        self.eval()

    def forward(self, x):
        return [self.given(self.conv, self.norm, x)]


def _kept(conv, norm, x):
    y = conv(x)
    return norm(y) + y


def _changed(conv, norm, x):
    y = conv(x)
    y += x
    return norm(y)


APART = {
    "the norm reads a sum": lambda conv, norm, x: norm(conv(x) + x),
    "a sum in the same memory": _changed,
    "the norm reads something else": lambda conv, norm, x: conv(x) + norm(x),
    "something else reads the convolution": _kept,
    "the convolution runs twice": lambda conv, norm, x: norm(conv(conv(x))),
    "the norm runs twice": lambda conv, norm, x: norm(norm(conv(x))),
    "the norm comes first": lambda conv, norm, x: conv(norm(x)),
    "the norm never runs": lambda conv, norm, x: conv(x),
}


@pytest.mark.parametrize("given", APART.values(), ids=APART)
def test_neighbours_that_are_no_pair(given):
    assert watched(_Neighbours(given), torch.zeros(1, 3, 4, 4))[1] == []


def test_a_convolution_that_is_a_level_itself_is_left():
    net = _Neighbours(lambda conv, norm, x: conv(x))
    net.forward = lambda x: [y := net.conv(x), net.norm(y)]
    assert watched(net, torch.zeros(1, 3, 4, 4))[1] == []


@pytest.mark.parametrize(
    "mode", [torch.no_grad, torch.enable_grad, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)]
)
def test_pairs_are_the_same_in_every_mode(mode):
    expected = Backbone("resnet18", image_size=64).pairs
    with mode():
        assert Backbone("resnet18", image_size=64).pairs == expected
        assert watched(_Neighbours(lambda conv, norm, x: norm(conv(x))), torch.zeros(1, 3, 4, 4))[1] == [("", "conv", "norm")]
    assert len(expected) == 15
