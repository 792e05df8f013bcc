"""The stream of `bikd predict`: sources in, one result a picture out, reading ahead while the network runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice

import numpy as np
import torch
from PIL import Image

from bikd_fast.data import fit
from bikd_fast.errors import UserError
from bikd_fast.inference.pipeline import MOST, in_batches, side_by_side
from bikd_fast.inference.prediction import BATCH, run_batches
from bikd_fast.inference.sources import Inputs, Source
from bikd_fast.inference.tiling import Tiling, look_tiled
from bikd_fast.models.detector import Detector

SHOWN_SIDE = 1024  # pixels, of the copies that heat maps are drawn on: what is held at once stays small


@dataclass(frozen=True)
class Result:
    """What was found in one picture.

    size: (height, width) of the picture in pixels. score: NaN where it could not be read. map: float32 (h, w), stretched over
    the picture. shown: uint8 (H, W, 3), the picture at SHOWN_SIDE pixels at most, if wanted. error: why it could not be read.
    """

    source: Source
    size: tuple[int, int]
    score: float
    map: np.ndarray | None
    shown: np.ndarray | None
    error: str | None = None


@dataclass
class _Loaded:
    source: Source
    planes: torch.Tensor | None  # the detector's square, or the whole picture for tiles
    size: tuple[int, int]
    shown: np.ndarray | None
    error: str | None = None


def look(
    detector: Detector, inputs: Inputs, *, tiling: Tiling | None = None, keep: bool = False, batch: int = BATCH
) -> Iterator[Result]:
    """Results in the order of the sources; one that cannot be read gives a result with ``error`` and the rest goes on.

    keep: keep a copy of each picture for drawing. tiling: look at parts of each picture at a chosen scale (see Tiling).
    """

    def load(source: Source) -> _Loaded:
        try:
            planes = source.read()
        except UserError as error:
            return _Loaded(source, None, (0, 0), None, str(error))
        size = (planes.shape[1], planes.shape[2])
        shown = _shown(planes) if keep else None
        return _Loaded(source, planes if tiling else fit(planes, detector.image_size), size, shown)

    if tiling:
        for items in in_batches(inputs.sources, load, 1, live=inputs.live, ahead=1):
            yield from _tiled(detector, items, tiling)
        return
    workers = min(MOST, torch.get_num_threads()) if detector.device.type == "cpu" and not inputs.live else 1
    batches = in_batches(inputs.sources, load, batch, first=1, live=inputs.live, ahead=(workers + 1) * batch)
    work = partial(_whole, detector)
    at_once = map(work, islice(batches, 1))  # the first result is waited for
    yield from chain.from_iterable(chain(at_once, side_by_side(work, batches, workers)))


def _whole(detector: Detector, items: list[_Loaded]) -> list[Result]:
    squares = [item.planes for item in items if item.planes is not None]
    found = [pair for maps, scores in run_batches(detector, squares) for pair in zip(maps.numpy(), scores.tolist())]
    nothing = (None, float("nan"))
    pairs = [found.pop(0) if item.planes is not None else nothing for item in items]
    return [Result(i.source, i.size, score, anomaly, i.shown, i.error) for i, (anomaly, score) in zip(items, pairs)]


def _tiled(detector: Detector, items: list[_Loaded], tiling: Tiling) -> Iterator[Result]:
    for item in items:
        if item.planes is None:
            yield Result(item.source, item.size, float("nan"), None, None, item.error)
            continue
        anomaly, score = look_tiled(detector, item.planes, tiling)
        yield Result(item.source, item.size, score, anomaly.numpy(), item.shown)


def _shown(planes: torch.Tensor) -> np.ndarray:
    picture = planes.permute(1, 2, 0).numpy()
    if max(picture.shape[:2]) <= SHOWN_SIDE:
        return picture
    small = Image.fromarray(picture)
    small.thumbnail((SHOWN_SIDE, SHOWN_SIDE), Image.Resampling.BILINEAR, reducing_gap=2.0)
    return np.asarray(small)
