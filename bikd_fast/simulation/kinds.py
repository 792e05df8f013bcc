"""The kinds of defects: one row of ranges each. A sample draws its kind, then every number of that kind's row.

Lengths are pixels of a 256-pixel picture, angles radians. A switch is written as chance(p) and is on where its number
is positive, so that everything is drawn from uniform ranges in one go.
"""

from dataclasses import fields

import torch
from torch import Tensor

from .config import KindShares, SimulationConfig
from .random import Numbers, Stream, uniform

Range = tuple[float, float]


def chance(probability: float) -> Range:
    """Range of a switch that is on (> 0) with this probability."""
    return (probability - 1.0, probability)


OFF, ON = chance(0.0), chance(1.0)

DEFAULTS: dict[str, Range] = {
    # outline (masks.py)
    "noisy": chance(0.5),  # switch: thresholded Perlin noise instead of an ellipse or a box
    "exponent_y": (0.0, 6.0),  # 2^floor Perlin cells across the picture
    "exponent_x": (0.0, 6.0),
    "local": (-2.0, 5.0),  # fall-off of the noise away from the centre (below 0: none): blobs in one place
    "box": chance(0.4),
    "aspect": (0.0, 1.3),  # log2 of length over width
    "width": (0.0, 0.0),  # half the width; 0: from the drawn coverage
    "cover": (0.0, 1.0),  # where in the configured range of coverage
    "wobble": (-0.3, 0.8),  # irregularity of an ellipse or a box as a share of its half width
    "sag": (0.0, 0.0),  # bend, as a share of the half length
    "wave": (0.0, 0.0),  # amplitude of a wave along the length, as a share of the half length
    "cycles": (1.0, 3.0),
    "feather": (0.0, 1.0),  # where in the configured range
    "soft": OFF,  # switch: the edge takes up the whole depth of the defect
    "opacity": (0.0, 1.0),  # where in the configured range
    # content (content.py)
    "foreign": OFF,  # switch: from another picture, a texture, or the shuffled grid
    "away": OFF,  # switch: from another place of the picture
    "turn": OFF,  # switch: turned by any angle
    "quarter": OFF,  # switch: turned by 90, 180 or 270 degrees
    "flip": OFF,  # switch: mirrored
    "warp": OFF,  # switch: displacement rises smoothly from the outline to the middle
    "twirl": (0.0, 0.0),  # angle in the middle
    "zoom": (0.0, 0.0),  # log2 of the magnification
    "drag": (0.0, 0.0),  # displacement, as a share of the half width: from 0.6 on the picture would fold over
    "low": (0.0, 0.0),  # towards the smoothed picture (1: smooth, below 0: sharpened)
    "fill": (0.0, 0.0),  # towards a flat colour; none below 0
    "own": (0.0, 0.0),  # that colour: 1 the surroundings', 0 a drawn one
    "level": (0.0, 1.0),  # brightness of the drawn colour
    "chroma": (0.0, 0.25),  # spread of its channels
    "gain": (0.0, 0.0),  # log of the factor on brightness
    "tint": (0.0, 0.0),  # log of the factors on the channels, at most; none below 0
    "bias": (0.0, 0.0),  # added brightness
    "shade": (0.0, 0.0),  # log of the factor on brightness on the side in a drawn direction; its reciprocal on the other
}

PASTED: dict[str, Range] = {"gain": (-0.35, 0.3), "tint": (-0.1, 0.25), "bias": (-0.1, 0.1)}
PASTED_KINDS = ("blend", "scar")

ROWS: dict[str, dict[str, Range]] = {
    "blend": {
        "noisy": ON, "foreign": chance(0.75), "away": ON, "turn": chance(0.5), "flip": chance(0.5), "zoom": (-1.3, 1.0),
        "low": (-0.5, 0.5), "fill": (-0.7, 0.7), "own": (-0.5, 0.5),
    },
    "patch": {
        "noisy": chance(0.15), "exponent_y": (1, 4), "exponent_x": (1, 4), "box": chance(0.55), "cover": (0.2, 1.0),
        "wobble": (-0.8, 0.6), "feather": (0.0, 0.5), "opacity": (0.55, 1.0), "foreign": chance(0.25),
        "away": chance(0.5), "quarter": ON, "turn": chance(0.4), "flip": chance(0.3),
    },
    "scar": {
        "noisy": OFF, "box": chance(0.8), "width": (2.0, 6.0), "aspect": (2.0, 4.0), "wobble": (-0.5, 0.6),
        "feather": (0.0, 0.3), "foreign": chance(0.4), "away": ON, "turn": chance(0.7), "opacity": (0.3, 1.0),
        "sag": (-0.2, 0.2),
    },
    "curve": {
        "noisy": OFF, "box": chance(0.5), "width": (1.1, 2.4), "aspect": (3.5, 6.5), "wobble": (-0.6, 0.7),
        "sag": (-0.5, 0.5), "wave": (-0.15, 0.15), "feather": (0.0, 0.3), "opacity": (0.1, 1.0), "fill": (0.6, 1.0),
        "own": (-0.5, 0.5), "level": (0.0, 1.0),
    },
    "warp": {
        "noisy": OFF, "box": OFF, "aspect": (0.0, 1.0), "cover": (0.35, 1.0), "feather": (0.0, 0.2), "opacity": (1.0, 1.0),
        "warp": ON, "twirl": (-1.2, 1.2), "zoom": (-0.9, 0.7), "drag": (-0.5, 0.5),
    },
    "stain": {
        "exponent_y": (0, 4), "exponent_x": (0, 4), "local": (0.0, 5.0), "box": OFF, "cover": (0.1, 1.0),
        "wobble": (0.0, 0.8), "feather": (0.3, 1.0), "soft": chance(0.5), "opacity": (0.3, 1.0), "gain": (-0.55, 0.4),
        "tint": (-0.3, 0.2), "bias": (-0.08, 0.08),
    },
    "blur": {
        "exponent_y": (0, 4), "exponent_x": (0, 4), "local": (0.0, 5.0), "cover": (0.3, 1.0), "low": (-1.5, 1.0),
        "opacity": (0.6, 1.0),
    },
    "missing": {
        "noisy": chance(0.25), "exponent_y": (0, 4), "exponent_x": (0, 4), "local": (2.0, 6.0), "box": chance(0.5),
        "feather": (0.0, 0.4), "opacity": (0.7, 1.0), "low": (0.0, 1.0), "fill": (0.7, 1.0), "own": (0.6, 1.0),
        "gain": (-0.25, 0.1),
    },
    "hole": {
        "noisy": OFF, "box": chance(0.1), "width": (2.5, 9.0), "aspect": (0.0, 0.9), "wobble": (-0.2, 0.8),
        "feather": (0.0, 0.5), "soft": chance(0.2), "opacity": (0.35, 1.0), "fill": (0.6, 1.0), "own": (-0.6, 0.4),
        "level": (-0.25, 0.7),
    },
    "relief": {
        "noisy": OFF, "box": chance(0.1), "aspect": (0.0, 1.6), "cover": (0.0, 1.0), "wobble": (-0.2, 0.6),
        "feather": (0.3, 1.0), "soft": chance(0.7), "opacity": (1.0, 1.0), "warp": ON, "zoom": (-0.5, 0.5),
        "drag": (-0.2, 0.2), "shade": (-0.8, 0.8),
    },
}  # fmt: skip

KINDS = tuple(f.name for f in fields(KindShares))
NAMES = tuple(DEFAULTS)
DRAWN = Stream(0, len(NAMES) + 1)


class Draw:
    """The drawn numbers of a batch: draw["width"] is (B, 1) float32, draw.on("box") (B, 1) bool; kind (B,) int64."""

    def __init__(self, kind: Tensor, values: Tensor) -> None:
        self.kind = kind
        self.values = values

    def __getitem__(self, name: str) -> Tensor:
        i = NAMES.index(name)
        return self.values[:, i : i + 1]

    def on(self, name: str) -> Tensor:
        return self[name] > 0


def kind_tables(config: SimulationConfig, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Cumulative shares (kinds,), low ends and spans (kinds, numbers) of the ranges, float32 on the device."""
    shares = torch.tensor([getattr(config.kinds, k) for k in KINDS], dtype=torch.float64)
    pasted = {name: (low * config.photometric, high * config.photometric) for name, (low, high) in PASTED.items()}
    rows = [{**DEFAULTS, **ROWS[kind], **(pasted if kind in PASTED_KINDS else {})} for kind in KINDS]
    ranges = torch.tensor([[row[name] for name in NAMES] for row in rows], dtype=torch.float32)
    low, span = ranges[..., 0], ranges[..., 1] - ranges[..., 0]
    return (shares.cumsum(0) / shares.sum()).float().to(device), low.to(device), span.to(device)


def draw_kinds(keys: Tensor | Numbers, tables: tuple[Tensor, Tensor, Tensor]) -> Draw:
    """Kind and numbers of every sample from its key (B,) int64."""
    cumulative, low, span = tables
    u = uniform(keys, DRAWN)
    kind = torch.searchsorted(cumulative, u[:, 0].contiguous(), right=True).clamp(max=len(KINDS) - 1)
    return Draw(kind, low[kind] + u[:, 1:] * span[kind])

