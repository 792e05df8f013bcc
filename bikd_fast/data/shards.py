"""Pictures inside tar files, as clusters keep them (the layout of WebDataset): no unpacking, any picture at any time.

ROOT/NAME/train*.tar     normal pictures to train on, whatever they are called
ROOT/NAME/test*.tar      pictures to test on (optional): KIND/NAME.png with kind ``good`` or a defect's, mask KIND/NAME.mask.png

ROOT may also be one category. A picture is known by the path SHARD.tar/MEMBER, which every reader of this package takes. Only the
headers are read to find the members, once a shard: the table is kept in the user's cache folder."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import threading
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import IO

from bikd_fast.data.cache_folder import cache_folder
from bikd_fast.data.errors import DataError
from bikd_fast.data.listing import SUFFIXES, sub_folders
from bikd_fast.data.samples import GOOD, Category, Sample

MASK = ".mask"  # before the suffix
TABLE = 2  # of the tables that are kept: those numbered 1 may be of a damaged shard and stop short
Members = dict[str, tuple[int, int]]  # name: (offset, size) in bytes


def split_member(path: Path) -> tuple[Path, str] | None:
    """(shard, member) of a path into a tar file; None for any other path."""
    for parent in path.parents:
        if parent.suffix.lower() == ".tar" and parent.is_file():
            return parent, path.relative_to(parent).as_posix()
    return None


def read_member(shard: Path, member: str) -> bytes:
    """The bytes of one file inside a shard. Raises DataError if it is not there."""
    found = members(shard).get(member)
    if found is None:
        raise DataError(f"{shard}: no {member} in it. Was it written anew after the data set was opened?")
    offset, size = found
    with shard.open("rb") as file:
        file.seek(offset)
        return file.read(size)


def members(shard: Path) -> Members:
    """Where the files of a shard lie. Raises DataError if it is no plain tar file, damaged or cut short."""
    status = shard.stat()
    return _members(shard.resolve(), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=65536)
def _members(shard: Path, size: int, changed: int) -> Members:
    key = hashlib.sha256(name_bytes(f"{TABLE} {shard} {size} {changed}")).hexdigest()[:24]
    note = cache_folder() / f"shard-{key}.json"
    try:
        return {name: (int(offset), int(length)) for name, (offset, length) in json.loads(note.read_text()).items()}
    except (OSError, ValueError, TypeError):  # not there, or cut short
        found = _scan(shard)
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        draft = note.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
        draft.write_text(json.dumps(found))
        draft.replace(note)
    except OSError:  # no place to keep it: found again the next time
        pass
    return found


def _scan(shard: Path) -> Members:
    try:
        with tarfile.open(shard, "r:") as tar:  # no compression: members must be reachable one by one
            found = {_plain(m.name): (m.offset_data, m.size) for m in tar if m.isreg() and not m.issparse()}
            _require_end(shard, tar.offset)
            return found
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        raise DataError(
            f"{shard}: not a plain tar file, damaged or cut short ({error}). Copy it again from its source; a compressed shard has "
            "to be unpacked, and archives that were joined by cat joined by tar -A."
        ) from error


def _require_end(shard: Path, end: int) -> None:
    """tarfile takes a header it cannot read for the end of the archive: after the last member, ``end`` bytes into the file, there
    has to be the block of zeros that every writer of tar files leaves, and nothing but zeros after it."""
    with shard.open("rb") as file:
        file.seek(end)
        block = file.read(tarfile.BLOCKSIZE)
        if len(block) < tarfile.BLOCKSIZE:
            raise tarfile.ReadError(f"it ends after {end} bytes without an end mark")
        while block:
            if block.count(0) < len(block):
                raise tarfile.ReadError(f"no readable header at byte {end}, and more after it")
            block = file.read(1 << 20)


def _plain(name: str) -> str:
    return PurePosixPath(name).as_posix().removeprefix("./")


def find_shards(root: Path) -> dict[str, Path]:
    """The categories under root by name: the folders with a train*.tar, or root itself. Raises DataError if there is none."""
    if _tars(root, "train"):
        return {root.resolve().name: root}
    found = {f.name: f for f in sub_folders(root) if _tars(f, "train")}
    if not found:
        raise DataError(f"{root}: no train*.tar in it or in a folder below it. Name the shards of good pictures train-000.tar, ...")
    return found


def read_shards(name: str, folder: Path) -> Category:
    """One category in the layout above.

    Raises DataError if there is no picture to train on, a defect lacks its mask while others have one, or a mask its picture."""
    train = [Sample(shard / member) for shard in _tars(folder, "train") for member in _pictures(shard)]
    if not train:
        raise DataError(f"{folder}: no pictures inside its train*.tar ({' '.join(sorted(SUFFIXES))}).")
    test: list[Sample] = []
    masks: dict[str, Path] = {}
    for shard in _tars(folder, "test"):
        for member in _pictures(shard):
            parts = PurePosixPath(member)
            if len(parts.parts) < 2:
                raise DataError(f"{shard}: {member} lies in no folder, so its kind is unknown. Name it good/{member}, say.")
            if GOOD in parts.parts[1:-1]:  # the whole of it would be one kind of defect
                raise DataError(f"{shard}: {member}: {GOOD} has to be its first folder. Pack what is below {parts.parts[0]}/.")
            if parts.stem.endswith(MASK):
                masks[parts.with_name(parts.stem.removesuffix(MASK)).as_posix()] = shard / member
            else:
                kind = parts.parts[0]
                test.append(Sample(shard / member, None, int(kind != GOOD), kind))
    return Category(name, train, _with_masks(test, masks))


def _with_masks(samples: list[Sample], masks: dict[str, Path]) -> list[Sample]:
    """masks: by the member's name without its suffix."""
    asked, paired = bool(masks), []
    for sample in samples:
        inside = split_member(sample.path)
        assert inside is not None
        mask = masks.pop(PurePosixPath(inside[1]).with_suffix("").as_posix(), None)
        if mask is None and sample.label and asked:
            raise DataError(f"{sample.path}: no mask beside it. Add it, or take all masks away to measure pictures only.")
        paired.append(Sample(sample.path, mask, sample.label, sample.kind))
    if masks:
        raise DataError(f"{next(iter(masks.values()))}: a mask without its picture. Restore the picture or remove the mask.")
    return paired


def _tars(folder: Path, part: str) -> list[Path]:
    return sorted(f for f in folder.glob(f"{part}*.tar") if f.is_file())


def _pictures(shard: Path) -> list[str]:
    """Members that are pictures, in the order of their names."""
    return sorted(
        name for name in members(shard)
        if PurePosixPath(name).suffix.lower() in SUFFIXES and not PurePosixPath(name).name.startswith(".")
    )  # fmt: skip


def name_bytes(text: str) -> bytes:
    """The bytes of a file's name, or of a text with names in it; a name need not be UTF-8."""
    return text.encode("utf-8", "surrogateescape")


def opened(path: Path) -> IO[bytes]:
    """A picture file to read from, or the bytes of a member."""
    inside = _inside(path)
    return path.open("rb") if inside is None else io.BytesIO(read_member(*inside))


def contents(path: Path) -> bytes:
    """The bytes of a picture file, or of a member."""
    inside = _inside(path)
    return path.read_bytes() if inside is None else read_member(*inside)


def size_of(path: Path) -> int:
    """Bytes of a picture file, or of a member."""
    inside = _inside(path)
    return path.stat().st_size if inside is None else members(inside[0])[inside[1]][1]


def _inside(path: Path) -> tuple[Path, str] | None:
    """As :func:`split_member`; a path that is there needs no search for a shard above it."""
    return None if path.exists() else split_member(path)
