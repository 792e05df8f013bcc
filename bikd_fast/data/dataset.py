"""A format's name, a folder and the wanted categories to the pictures in them."""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from bikd_fast.data.embedded import ensure_textures
from bikd_fast.data.errors import DataError
from bikd_fast.data.folder import find_folder, read_folder
from bikd_fast.data.mvtec import find_mvtec, read_mvtec
from bikd_fast.data.samples import GOOD, Category
from bikd_fast.data.shards import find_shards, read_shards
from bikd_fast.data.visa import find_visa, read_visa
from bikd_fast.homes import there_or_from_home

FORMATS = ("textures", "mvtec", "visa", "btad", "folder", "shards")


def open_dataset(format: str, root: Path | None, categories: Sequence[str] | str = "all") -> list[Category]:
    """The wanted categories of a data set, without reading a pixel.

    format: textures (embedded; root is the folder to keep it in, None for the user's cache), mvtec, visa, btad, folder, shards.
    categories: "all", or names; their order is kept. docs/data.md shows each layout.
    Raises DataError for an unknown format or category, a missing folder, or a layout that does not fit."""
    if isinstance(categories, str):
        categories = [categories]
    find = _readers(format, there_or_from_home(root, DataError) if root is not None else None)
    wanted = list(find) if "all" in categories else list(dict.fromkeys(categories))
    unknown = [name for name in wanted if name not in find]
    if unknown or not wanted:
        what = f"no category {', '.join(unknown)}" if unknown else "no category was asked for"
        raise DataError(f"{root or format}: {what}; there are: {', '.join(find)} (or all)")
    return [find[name]() for name in wanted]


def _readers(format: str, root: Path | None) -> dict[str, Callable[[], Category]]:
    """By category name, in order, what reads it."""
    if format not in FORMATS:
        raise DataError(f"data format {format!r} is unknown; there are: {', '.join(FORMATS)}")
    if format == "textures":
        _no_data_set(root)
        root = ensure_textures(root)
        format = "mvtec"
    elif root is None:
        raise DataError(f"data format {format} needs a folder: give it with --data.root")
    if not root.is_dir():
        raise DataError(f"{root}: no such folder. Check --data.root.")
    if format == "visa":
        return {name: partial(read_visa, root, name, rows) for name, rows in find_visa(root).items()}
    if format == "shards":
        return {name: partial(read_shards, name, folder) for name, folder in find_shards(root).items()}
    if format == "folder":
        return {name: partial(read_folder, name, folder) for name, folder in find_folder(root).items()}
    good = "ok" if format == "btad" else GOOD
    return {name: partial(read_mvtec, name, folder, good) for name, folder in find_mvtec(root, good).items()}


def _no_data_set(root: Path | None) -> None:
    """Whoever names a folder of pictures and no format wants these pictures, not the embedded ones written among them."""
    if root is None or not root.is_dir():
        return
    for name in FORMATS[1:]:
        try:
            _readers(name, root)
        except DataError:
            continue
        raise DataError(
            f"{root}: holds pictures in the layout of {name}, and data.format textures would write the embedded set beside them. "
            f"Give --data.format {name}, or another folder to keep the embedded set in."
        )


def describe(categories: Sequence[Category]) -> str:
    """A table for a person: how many pictures each category has to train on and to test on, by kind, and its notes."""
    rows = [("category", "train", "test good", "defects", "of kinds")]
    for c in categories:
        kinds = Counter(s.kind for s in c.test if s.label)
        of = ", ".join(f"{kind} {n}" for kind, n in sorted(kinds.items()))
        rows.append((c.name, str(len(c.train)), str(sum(not s.label for s in c.test)), str(sum(kinds.values())), of))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = []
    for first, *counts, last in rows:
        cells = [first.ljust(widths[0]), *(n.rjust(w) for n, w in zip(counts, widths[1:])), last]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines + [f"{c.name}: {c.note}" for c in categories if c.note])
