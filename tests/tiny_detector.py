"""A detector of random weights, pictures for it and a run folder of it: shared by the tests of prediction, serving and export."""

import numpy as np
import pytest
import torch
from PIL import Image

from bikd_fast.config import MapConfig, ModelConfig
from bikd_fast.models.detector import Detector


def make_detector(
    threshold: float | None = None, pixel_threshold: float | None = None, map_config: MapConfig | None = None, **model
) -> Detector:
    """A detector of random weights for 64-pixel squares; thresholds NaN unless given."""
    torch.manual_seed(0)
    detector = Detector(ModelConfig(weights="random", size=0.25, **model), map_config or MapConfig(), 64)
    detector.backbone.fold()
    for parameter in detector.parameters():  # zero-initialised layers would leave half the network untested
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    if threshold is not None:
        detector.threshold.fill_(threshold)
    if pixel_threshold is not None:
        detector.pixel_threshold.fill_(pixel_threshold)
    detector.about = {"categories": ["stripes"], "threshold": {"value": threshold, "promise": "made up for a test."}}
    return detector.eval().requires_grad_(False)


def make_picture(seed: int, height: int = 80, width: int = 100) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = np.arange(width)[None]
    gray = 128 + 60 * np.sin(x / 3 + seed) + rng.normal(0, 12, (height, width))
    picture = np.stack([gray, gray * 0.9, gray * 0.7], 2).clip(0, 255).astype(np.uint8)
    if seed % 2:
        picture[20:40, 30:60] = (250, 20, 20)
    return picture


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """Ten PNG files of 80 x 100 pixels in two folders."""
    root = tmp_path_factory.mktemp("pictures")
    for i in range(10):
        place = root / ("a" if i < 5 else "b") / f"{i % 5}.png"
        place.parent.mkdir(exist_ok=True)
        Image.fromarray(make_picture(i)).save(place)
    return root


@pytest.fixture(scope="session")
def detector(pictures):
    """Thresholds lie in the middle of what its random weights give for the pictures."""
    found = make_detector()
    seen = found.predict(sorted(pictures.glob("*/*.png")))
    scores = seen.scores.sort().values
    found.threshold.fill_(((scores[4] + scores[5]) / 2).item())
    found.pixel_threshold.fill_(seen.maps.quantile(0.9).item())
    return found


@pytest.fixture(scope="session")
def run(detector, tmp_path_factory):
    """A run folder of two categories with the same detector."""
    folder = tmp_path_factory.mktemp("run")
    for name in ("stripes", "dots"):
        (folder / name).mkdir()
        detector.about["categories"] = [name]
        detector.save(folder / name)
    detector.about["categories"] = ["stripes"]
    return folder
