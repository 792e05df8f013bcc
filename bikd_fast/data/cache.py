"""Decoded pictures in a memory-mapped file: for sets larger than memory, and shared by the processes of one machine.

Two plain files a set, named by a hash of what they were made from: pictures-KEY.npy (uint8) and pictures-KEY.json (the
pictures left out). Delete them at any time; nothing else refers to them."""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from bikd_fast.data.errors import DataError
from bikd_fast.data.lock import alone
from bikd_fast.data.samples import Sample
from bikd_fast.data.shards import contents, name_bytes, size_of, split_member

_LAYOUT = 2  # raise it when decoding or resizing changes what a picture becomes


def picture_key(samples: Sequence[Sample], size: int, on_bad_image: str) -> str:
    """A hash of everything the decoded pictures depend on: paths, sizes and times of the files, and the wanted size.

    Raises DataError if a picture can't be looked at and on_bad_image is "error"."""
    digest = hashlib.sha256(f"{_LAYOUT} {size} {on_bad_image}".encode())
    folders: dict[Path, Path] = {}  # resolving one is slow, and a set has few
    for sample in samples:
        for path in (sample.path, sample.mask_path if on_bad_image == "skip" else None):
            if path is None:
                continue
            inside = split_member(path)
            file = path if inside is None else inside[0]
            if file.parent not in folders:
                folders[file.parent] = file.parent.resolve()
            digest.update(name_bytes(f"\n{folders[file.parent] / path.relative_to(file.parent)}"))
            try:
                status = file.stat()
                digest.update(f" {status.st_size} {status.st_mtime_ns}".encode())
            except OSError as error:
                if on_bad_image == "error":
                    raise DataError(f"{path}: {error.strerror}. Was it moved after the data set was opened?") from None
    return digest.hexdigest()[:24]


def identity(samples: Sequence[Sample], most: int = 256 * 2**20) -> str:
    """A hash of what pictures are, wherever they lie: names, bytes each, and the contents of files spread evenly over the set.

    most: bytes of contents that are read; a set of fewer is read whole, so that no change of it goes unseen."""
    digest, sizes = hashlib.sha256(), []
    for sample in samples:
        try:
            sizes.append(size_of(sample.path))
        except OSError:  # whoever reads it says so
            sizes.append(-1)
        digest.update(name_bytes(f"{sample.path.name} {sizes[-1]}\n"))
    step = max(1, -(-sum(sizes) // most))
    for sample in samples[::step]:
        with contextlib.suppress(OSError):
            digest.update(contents(sample.path))
    return digest.hexdigest()[:24]


def scratch(folder: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Float32 of that shape in an unnamed file in ``folder``; gone with the array, and with the process.

    Raises DataError if the folder can't be written or lacks the space."""
    bytes_needed = 4 * int(np.prod(shape))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            _reserve(file.fileno(), bytes_needed)
            return np.memmap(file, np.float32, "r+", shape=shape)
    except OSError as error:
        what = f"{bytes_needed / 1e9:.1f} GB of maps can't be written ({error.strerror or error})"
        raise DataError(f"{folder}: {what}. Name another folder.") from error


def open_mapped(folder: Path, key: str, shape: tuple[int, ...]) -> tuple[np.ndarray, dict[int, str]] | None:
    """The stored pictures, uint8 of that shape, copy-on-write, and the reasons by index; None if not stored whole."""
    file, note = _names(folder, key)
    try:
        array = np.load(file, mmap_mode="c", allow_pickle=False)
        reasons = {int(i): str(reason) for i, reason in json.loads(note.read_text()).items()}
    except (OSError, ValueError, EOFError, AttributeError):  # absent, or cut short by a full disk
        return None
    return (array, reasons) if array.shape == shape and array.dtype == np.uint8 else None


def write_mapped(
    folder: Path, key: str, shape: tuple[int, ...], fill: Callable[[np.ndarray], dict[int, str]]
) -> tuple[np.ndarray, dict[int, str]]:
    """What open_mapped returns, made first by fill(array) -> reasons if it is not there.

    One process writes, the others wait for it. Raises DataError if the folder can't be written or lacks the space."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with alone(folder / f".pictures-{key}.lock"):
            stored = open_mapped(folder, key, shape)
            if stored is None:
                _write(folder, key, shape, fill)
                stored = open_mapped(folder, key, shape)
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"{folder}: the picture cache can't be written ({reason}). Name another folder.") from error
    if stored is None:
        raise DataError(f"{folder}: the picture cache just written can't be read back. Check the disk.")
    return stored


def _write(folder: Path, key: str, shape: tuple[int, ...], fill: Callable[[np.ndarray], dict[int, str]]) -> None:
    file, note = _names(folder, key)
    with tempfile.TemporaryDirectory(prefix=f".pictures-{key}-", dir=folder) as place:
        draft, draft_note = Path(place) / file.name, Path(place) / note.name
        array = np.lib.format.open_memmap(draft, mode="w+", dtype=np.uint8, shape=shape)
        with draft.open("r+b") as handle:
            _reserve(handle.fileno(), draft.stat().st_size)
        reasons = fill(array)
        array.flush()
        draft_note.write_text(json.dumps(reasons))
        draft_note.replace(note)  # first: whoever finds the pictures finds the note
        draft.replace(file)


def _reserve(descriptor: int, count: int) -> None:
    """Take the bytes now: a full disk is an error here, and a killed process at the first write."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, count)
    else:
        os.ftruncate(descriptor, count)


def _names(folder: Path, key: str) -> tuple[Path, Path]:
    return folder / f"pictures-{key}.npy", folder / f"pictures-{key}.json"
