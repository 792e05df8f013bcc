"""Labelled pictures made from held-out good ones: as they are, under other light, and with defects of :mod:`.defects`."""

from __future__ import annotations

import itertools
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from bikd_fast.errors import UserError
from bikd_fast.simulation import estimate_foreground
from bikd_fast.simulation.foreground import evenly
from bikd_fast.validation.defects import DEFECTS, damage, harmless

SEED = 7001  # of the validation defects, the same in every search
FEWEST, MOST = 4, 48  # held-out normals needed and used
DEFECTIVE = 24  # defective pictures, about


@dataclass(frozen=True)
class Validation:
    """Labelled pictures of one category.

    Attributes:
        pictures: uint8 (N, 3, S, S).
        masks: bool (N, S, S).
        half: (N,) int64, 0 or 1: which half of the held-out normals a picture comes from; -1: it is there for calibration alone.
        calibration: for either half, positions (n,) int64 of good pictures that are not in it, which its calibration may see.
        kinds: N names.
    """

    pictures: torch.Tensor
    masks: np.ndarray
    half: np.ndarray
    calibration: tuple[np.ndarray, np.ndarray]
    kinds: list[str]


def enough(name: str, held_out: int) -> None:
    """Refuse to judge a category by so few held-out pictures.

    Raises:
        UserError: fewer than four.
    """
    if held_out < FEWEST:
        raise UserError(
            f"{name}: {held_out} good pictures are held out, and judging needs at least {FEWEST}. "
            "Raise --data.holdout or add pictures."
        )


def simulated(name: str, held_out: torch.Tensor) -> Validation:
    """The validation set of a category from its held-out normals, uint8 (N, 3, S, S): every one as it is, every one under other
    light, and defects of every kind on some of them, in turn. A pure function of its arguments.

    Raises:
        UserError: fewer than four pictures.
    """
    enough(name, len(held_out))
    held_out = held_out[evenly(len(held_out), MOST)].cpu()  # of several categories, some of each
    good = held_out.permute(0, 2, 3, 1).numpy()
    found = estimate_foreground(held_out)
    foreground = None if found is None else found.numpy()
    count, kinds = len(good), list(DEFECTS)
    each = -(-DEFECTIVE // len(kinds))
    pictures, masks = list(good), [np.zeros(good.shape[1:3], bool)] * (2 * count)
    half, names = [i % 2 for i in range(count)] * 2, ["good"] * (2 * count)
    pictures += [harmless(_rng(name, "good", i), good[i]) for i in range(count)]
    for number, (turn, kind) in enumerate(itertools.product(range(each), kinds)):
        i = (number + turn) % count  # every kind goes over the pictures, and over both halves
        rng = _rng(name, kind, turn)
        under = None if foreground is None else foreground[i]
        base = harmless(rng, good[i]) if turn % 2 else good[i]
        damaged, mask = damage(kind, rng, base, good[(i + 2) % count], under)
        pictures.append(damaged)
        masks.append(mask)
        half.append(i % 2)
        names.append(kind)
    stack = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()
    return Validation(stack, np.stack(masks), np.array(half), (np.arange(1, count, 2), np.arange(0, count, 2)), names)


def _rng(*words: Any) -> np.random.Generator:
    return np.random.default_rng([SEED, *(zlib.crc32(str(word).encode()) for word in words)])
