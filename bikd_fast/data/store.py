"""Pictures of a set larger than memory: decoded when first asked for, kept as bytes in a file that fills as it goes.

Two plain files a set, named by a hash of what they were made from: store-KEY.u8 (rows of pixels; it takes no room on the disk
before they are there) and store-KEY.crc (a checksum a row, 0 while it is empty). Every process of a machine uses the same two. A
row counts only with its checksum, so a kill or a crash at any moment costs a row and nothing else. Delete them at any time."""

from __future__ import annotations

import os
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from bikd_fast.data.cache import picture_key
from bikd_fast.data.errors import DataError
from bikd_fast.data.load import load_image
from bikd_fast.data.samples import Sample
from bikd_fast.data.threads import on_threads

_THERE = 1 << 32  # marks a checksum as one
_WIDTH = 8  # bytes of a checksum


class Store:
    """N pictures as uint8 (3, S, S), by position, from any number of threads and processes.

    Args:
        samples: what is to be read.
        size: S.
        folder: where the two files go; best a disk of this machine.
        on_bad_image: ``error`` raises when a bad picture is asked for; ``skip`` shows the next good one in its place.

    Attributes:
        skipped: (path, reason) of the bad pictures met so far.
        decoded: how many pictures this process has decoded.
    """

    def __init__(self, samples: Sequence[Sample], size: int, folder: Path, on_bad_image: str = "error") -> None:
        self.samples, self.size, self.on_bad_image = samples, size, on_bad_image
        self.skipped: dict[Path, str] = {}
        self.decoded = 0
        self._bytes = 3 * size * size
        key = picture_key(samples, size, on_bad_image)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._rows = os.open(folder / f"store-{key}.u8", os.O_RDWR | os.O_CREAT, 0o644)
            self._sums = os.open(folder / f"store-{key}.crc", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            reason = f"the picture store can't be written ({error.strerror})"
            raise DataError(f"{folder}: {reason}. Give another --data.cache_dir.") from error
        self._full = False

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, position: int) -> torch.Tensor:
        """One picture. Raises DataError for a bad one, unless they are skipped, and then where all are bad."""
        for step in range(len(self)):
            at = (position + step) % len(self)
            if self.samples[at].path in self.skipped:
                continue
            stored = self._read(at)
            if stored is not None:
                return stored
            try:
                pixels = load_image(self.samples[at].path, self.size).contiguous()
            except DataError as error:
                if self.on_bad_image == "error":
                    raise
                self.skipped[self.samples[at].path] = str(error)
                print(f"  left out, the next one stands in: {error}", file=sys.stderr, flush=True)
                continue
            self.decoded += 1
            self._write(at, pixels)
            return pixels
        raise DataError(f"none of the {len(self)} pictures can be read; the first: {next(iter(self.skipped.values()))}")

    def rows(self, positions: Sequence[int]) -> torch.Tensor:
        """(n, 3, S, S) uint8."""
        found = torch.empty(len(positions), 3, self.size, self.size, dtype=torch.uint8)
        for to, position in enumerate(positions):
            found[to] = self[position]
        return found

    def many(self, positions: Sequence[int]) -> torch.Tensor:
        """The same for a whole lot of them, on as many threads as there are cores; not from a thread of those that read ahead."""
        return torch.stack(list(on_threads(lambda i: self[positions[i]], len(positions), "reading pictures")))

    def close(self) -> None:
        os.close(self._rows)
        os.close(self._sums)

    def _read(self, at: int) -> torch.Tensor | None:
        mark = int.from_bytes(os.pread(self._sums, _WIDTH, at * _WIDTH), "little")
        if not mark & _THERE:
            return None
        pixels = np.empty(self._bytes, np.uint8)
        got = os.preadv(self._rows, [pixels.data], at * self._bytes)
        if got != self._bytes or mark != _THERE | zlib.crc32(pixels.data):
            return None
        return torch.from_numpy(pixels).view(3, self.size, self.size)

    def _write(self, at: int, pixels: torch.Tensor) -> None:
        if self._full:
            return
        raw = pixels.numpy().data.cast("B")
        try:
            if os.pwrite(self._rows, raw, at * self._bytes) == self._bytes:
                os.pwrite(self._sums, (_THERE | zlib.crc32(raw)).to_bytes(_WIDTH, "little"), at * _WIDTH)
        except OSError as error:  # a full disk: what is there stays of use, the rest is decoded each time
            self._full = True
            print(f"  picture store: {error.strerror}; further pictures are decoded every time", file=sys.stderr, flush=True)
