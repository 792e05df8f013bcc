"""The photographs inside the scikit-image wheel, each divided once into a part for training and a part for testing.

Renderers are handed one part only, so a training and a test picture can't share a source pixel by construction.
Files are opened where the wheel puts them; nothing is downloaded (skimage.data, which may download, is not called)."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from bikd_fast.data.errors import DataError

Box = tuple[int, int, int, int]  # left, top, right, bottom, right and bottom outside
Parts = dict[str, np.ndarray]

# Four columns or rows of guard lie between the two parts of each photograph. Grass is divided by columns, so that both parts
# hold blades, clover and fallen leaves alike: what is normal when testing must have been there to learn from.
PARTS: dict[str, dict[str, Box]] = {
    "brick": {"train": (216, 0, 512, 512), "test": (0, 0, 212, 512)},
    "grass": {"train": (0, 0, 296, 512), "test": (300, 0, 512, 512)},
    "gravel": {"train": (0, 0, 512, 296), "test": (0, 300, 512, 512)},
    "moon": {"train": (160, 0, 294, 200), "test": (390, 190, 512, 390)},  # plain ground without large craters
}


def read_source(name: str) -> np.ndarray:
    """A photograph of the wheel as float64 (H, W, C) in [0, 1]. Raises DataError if the wheel lacks it."""
    spec = find_spec("skimage")
    folder = Path(spec.origin).parent if spec and spec.origin else Path("skimage")
    path = folder / "data" / f"{name}.png"
    if not path.is_file():
        raise DataError(f"{path}: missing, the embedded data set is made from it. Install scikit-image from its wheel.")
    with Image.open(path) as picture:
        pixels = np.asarray(picture, dtype=np.float64) / 255
    return pixels.reshape(*pixels.shape[:2], -1)


def cut_parts(split: str, photographs: dict[str, np.ndarray]) -> Parts:
    """The part of every photograph that belongs to one split, copied, so that nothing beyond it can be read."""
    parts = {}
    for name, boxes in PARTS.items():
        left, top, right, bottom = boxes[split]
        parts[name] = photographs[name][top:bottom, left:right].copy()
    return parts


def read_parts(split: str) -> Parts:
    """cut_parts of the photographs of the wheel."""
    return cut_parts(split, {name: read_source(name) for name in PARTS})
