"""The files that `bikd predict` leaves: scores.csv, scores.json, heat maps, masks, outlines. Written while the network runs."""

from __future__ import annotations

import csv
import io
import json
import math
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
from PIL import Image

from bikd_fast.errors import UserError
from bikd_fast.inference.look import Result
from bikd_fast.inference.regions import regions
from bikd_fast.report.overlay import draw_overlay, heat_range, resize_map

COLUMNS = ("path", "score", "threshold", "label", "anomalous_share", "width", "height", "error")
DRAWN = {"heatmaps": ".jpg", "masks": ".png"}  # sub-folders of pictures, and their suffix
WAITING = 16  # results held for drawing at most


Verdict = Literal["anomalous", "normal", "unknown"]


class OutputError(UserError):
    """Results cannot be written; the message names the file."""


def verdict(score: float, threshold: float) -> Verdict:
    """anomalous, normal, or unknown where there is no threshold or no score."""
    if math.isnan(score) or math.isnan(threshold):
        return "unknown"
    return "anomalous" if score >= threshold else "normal"


class Writers:
    """Takes results in order and writes what was asked for into ``folder``; a context manager.

    Args:
        folder: made if missing and anything is to be written; files of the same names are replaced.
        kinds: some of csv, json, heatmaps, masks, polygons.
        thresholds: (threshold of a score, of a pixel), NaN for none; without the second no masks, and regions null.
        colours: (low, high) of the heat maps; None takes them from the first picture.
        about: goes into scores.json as it is.

    Raises:
        OutputError: something cannot be written; by ``add`` of a later result or at the end.
    """

    def __init__(
        self,
        folder: Path,
        kinds: Sequence[str],
        thresholds: tuple[float, float],
        colours: tuple[float, float] | None,
        about: dict[str, Any],
    ) -> None:
        self.folder, self.kinds, self.colours = folder, set(kinds), colours
        self.threshold, self.pixel_threshold = thresholds
        if math.isnan(self.pixel_threshold):
            self.kinds.discard("masks")
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="write")
        self._room = threading.Semaphore(WAITING)
        self._pending: list[Future[None]] = []
        self._drawing: Future[dict[str, Any]] | None = None
        text: dict[str, Any] = {"encoding": "utf-8", "errors": "backslashreplace"}  # of names that are not UTF-8; valid JSON too
        try:
            if self.kinds:
                folder.mkdir(parents=True, exist_ok=True)
            self._csv = (folder / "scores.csv").open("w", newline="", **text) if "csv" in self.kinds else None
            self._json = (folder / ".scores.json.part").open("w", **text) if self._wants_json else None
        except OSError as error:
            raise OutputError(f"{folder}: cannot be written to ({error.strerror}). Give another folder with --output.") from error
        self._rows = csv.writer(self._csv) if self._csv else None
        if self._rows:
            self._rows.writerow(COLUMNS)
        if self._json:
            head = {"threshold": _plain(self.threshold), "pixel_threshold": _plain(self.pixel_threshold), **about}
            self._json.write(json.dumps(head, ensure_ascii=False)[:-1] + ',\n"pictures": [')
            self._separator = "\n"

    @property
    def _wants_json(self) -> bool:
        return bool({"json", "polygons"} & self.kinds)

    @property
    def keeps_pictures(self) -> bool:
        """Whether results must bring their picture along."""
        return "heatmaps" in self.kinds

    def add(self, result: Result) -> None:
        """Write one result: its rows now, its pictures on a thread."""
        try:
            self._add(result)
        except OSError as error:
            raise OutputError(f"{error.filename or self.folder}: cannot be written ({error.strerror}).") from error

    def _add(self, result: Result) -> None:
        share = float("nan")
        if result.map is not None and not math.isnan(self.pixel_threshold):
            share = float((result.map >= self.pixel_threshold).mean())
        label = verdict(result.score, self.threshold)
        (height, width), name = result.size, result.source.name
        if self._rows and self._csv:
            cells = [_cell(result.score), _cell(self.threshold), label, _cell(share)]
            self._rows.writerow([name, *cells, width or "", height or "", result.error or ""])
            self._csv.flush()  # a line is there when its picture is done, for whoever reads along
        if self._json:
            entry: dict[str, Any] = {"path": name, "score": _plain(result.score), "label": label, "anomalous_share": _plain(share)}
            entry |= {"width": width, "height": height} if result.error is None else {"error": result.error}
            if result.map is not None:
                if "polygons" in self.kinds:
                    entry["regions"] = regions(result.map, self.pixel_threshold, height, width)
                drawn = [kind for kind in DRAWN if kind in self.kinds]
                entry |= {kind[:-1]: f"{kind}/{result.source.stem}{DRAWN[kind]}" for kind in drawn}
            self._json.write(self._separator + json.dumps(entry, ensure_ascii=False))
            self._separator = ",\n"
        if result.map is not None and {"heatmaps", "masks"} & self.kinds:
            self._draw_later(result)

    def _draw_later(self, result: Result) -> None:
        if self.colours is None:
            assert result.map is not None
            self.colours = heat_range(result.map[None], np.zeros(1), self.pixel_threshold)
        self._room.acquire()
        future = self._pool.submit(self._draw, result)
        future.add_done_callback(lambda _: self._room.release())
        self._pending = [f for f in self._pending if not _finished(f)] + [future]

    def _draw(self, result: Result) -> None:
        anomaly, stem = result.map, result.source.stem
        assert anomaly is not None and self.colours is not None
        if "heatmaps" in self.kinds and result.shown is not None:
            low, high = self.colours
            drawn = draw_overlay(result.shown, anomaly, threshold=self.pixel_threshold, low=low, high=high)
            _save(drawn, self._place("heatmaps", stem), "JPEG", quality=90)
        if "masks" in self.kinds:
            height, width = result.size
            large = resize_map(anomaly, width, height) >= np.float32(self.pixel_threshold)
            _save(large.astype(np.uint8) * 255, self._place("masks", stem), "PNG", compress_level=1)

    def _place(self, kind: str, stem: str) -> Path:
        path = self.folder / kind / f"{stem}{DRAWN[kind]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def __enter__(self) -> Writers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Finish every file; also after Ctrl-C, so that what was found until then is whole and readable."""
        self._pool.shutdown(wait=True)
        try:
            if self._csv:
                self._csv.close()
            if self._json:
                self._json.write("\n]}\n")
                self._json.close()
                (self.folder / ".scores.json.part").replace(self.folder / "scores.json")
            for future in self._pending:
                _finished(future)
        except OSError as problem:
            if error is None:
                raise OutputError(f"{problem.filename or self.folder}: cannot be written ({problem.strerror}).") from problem


def _save(picture: np.ndarray, path: Path, kind: str, **options: Any) -> None:
    """Encoded in memory and written at once: Pillow takes twice as long to encode into a file."""
    encoded = io.BytesIO()
    Image.fromarray(picture).save(encoded, kind, **options)
    path.write_bytes(encoded.getbuffer())


def _finished(future: Future[None]) -> bool:
    """Whether it is done; raises what it raised."""
    if future.done():
        future.result()
    return future.done()


def _cell(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.7g}"


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else value
