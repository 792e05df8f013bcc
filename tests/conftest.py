"""Shared by all tests: few threads, because the machine is small and several things run side by side."""

import os

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image

torch.set_num_threads(1)
settings.register_profile("repeatable", derandomize=True)  # a change is judged on the same cases every time
settings.register_profile("searching", derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


LONGEST = ("test_tune_cluster.py", "test_tune_groups.py")  # of the end-to-end modules, each of which one worker runs


def pytest_collection_modifyitems(items):
    """The longest modules start first, so that no worker waits for them at the end."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture(scope="session")
def tiny_mvtec(tmp_path_factory):
    """Two categories in MVTec AD layout: 12 good pictures each, 3 good and 3 defective ones to test on, 64 px."""
    root = tmp_path_factory.mktemp("mvtec")
    rng = np.random.default_rng(0)
    for category in ("stripes", "dots"):
        for part, count in (("train/good", 12), ("test/good", 3), ("test/spot", 3)):
            folder = root / category / part
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = _surface(category, rng)
                if part == "test/spot":
                    pixels[20:34, 24:40] = (250, 20, 20)
                    mask = np.zeros((64, 64), np.uint8)
                    mask[20:34, 24:40] = 255
                    truth = root / category / "ground_truth/spot"
                    truth.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(mask).save(truth / f"{i:03}_mask.png")
                Image.fromarray(pixels).save(folder / f"{i:03}.png")
    return root


def _surface(category: str, rng: np.random.Generator) -> np.ndarray:
    y, x = np.mgrid[:64, :64]
    phase = rng.uniform(0, 6)
    wave = np.sin(x / 3 + phase) if category == "stripes" else np.sin(x / 4 + phase) * np.sin(y / 4)
    gray = 128 + 60 * wave + rng.normal(0, 6, (64, 64))
    return np.repeat(gray.clip(0, 255).astype(np.uint8)[..., None], 3, 2)
