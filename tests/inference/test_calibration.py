"""What held-out good pictures set inside the map."""

import pytest
import torch
from tiny_detector import make_detector

from bikd_fast.config import MapConfig
from bikd_fast.inference.calibration import level_weights, weigh

PICTURES = torch.zeros(10, 3, 64, 64, dtype=torch.uint8)
PICTURES[8:] = 255  # two batches, the second one smaller


def features(x):
    """Three levels whose mean discrepancies on PICTURES are .1, .2 and .4, however they lie over pictures and positions."""
    white = x[:, :1, :1, :1]
    first = torch.full((len(x), 1, 16, 16), 0.1)
    second = (0.1 + 0.5 * white).expand(len(x), 1, 8, 8)
    third = torch.tensor([0.1, 0.7]).repeat_interleave(2).expand(len(x), 1, 4, 4)
    cosines = [1 - d for d in (first, second, third)]
    teacher = [torch.cat((torch.full_like(c, 3.0), torch.zeros_like(c)), 1) for c in cosines]  # the cosine knows no lengths
    return teacher, [torch.cat((c, (1 - c * c).sqrt()), 1) for c in cosines]


def stubbed(**options):
    detector = make_detector(map_config=MapConfig(**options), head=False, mahalanobis=False)
    detector.features = features
    return detector


def test_a_level_of_twice_the_discrepancy_gets_half_the_weight():
    assert level_weights(stubbed(), PICTURES) == pytest.approx((12 / 7, 6 / 7, 3 / 7), rel=1e-5)


@pytest.mark.parametrize(
    ("options", "expected"),
    [({}, (12 / 7, 6 / 7, 3 / 7)), ({"calibrate_levels": False}, (1, 1, 1)), ({"combine": "product"}, (1, 1, 1))],
)
def test_levels_are_weighed_where_the_map_asks_for_it(options, expected):
    detector = stubbed(**options)
    assert weigh(detector, PICTURES) == (expected != (1, 1, 1))
    assert detector.level_weights == pytest.approx(expected, rel=1e-5)
