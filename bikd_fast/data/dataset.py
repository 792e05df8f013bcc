"""A format's name, a folder and the wanted categories to the pictures in them."""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from bikd_fast.data.embedded import ensure_textures
from bikd_fast.data.errors import DataError
from bikd_fast.data.mvtec import find_mvtec, read_mvtec
from bikd_fast.data.samples import Category

FORMATS = ("textures", "mvtec", "visa", "btad", "folder")


def open_dataset(format: str, root: Path | None, categories: Sequence[str] = ("all",)) -> list[Category]:
    """The wanted categories of a data set, without reading a pixel.

    format: textures (embedded; root is where to keep it, None for the user's cache folder), mvtec, visa, btad or folder.
    categories: ["all"], or names; the order is kept. docs/data.md shows each layout.
    Raises DataError for an unknown format or category, a missing folder, or a layout that does not fit."""
    find = _finders(format, root)
    wanted = list(find) if "all" in categories else list(dict.fromkeys(categories))
    unknown = [name for name in wanted if name not in find]
    if unknown or not wanted:
        raise DataError(f"no category {', '.join(unknown) or 'was named'} in {root or format}; it has: {', '.join(find)}")
    return [find[name]() for name in wanted]


def _finders(format: str, root: Path | None) -> dict[str, Callable[[], Category]]:
    """By name, in order, what reads each category."""
    if format not in FORMATS:
        raise DataError(f"data format {format!r} is unknown; there are: {', '.join(FORMATS)}")
    if format == "textures":
        root = ensure_textures(Path(root) if root else None)
    elif root is None:
        raise DataError(f"data format {format} needs a folder: give it with --data.root")
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"{root}: no such folder. Check --data.root.")
    return {name: partial(read_mvtec, name, folder) for name, folder in find_mvtec(root).items()}


def describe(categories: Sequence[Category]) -> str:
    """A table for a person: each category's number of training, normal test and defect pictures, by kind, and its notes."""
    rows = [("category", "train", "test good", "defects", "of kinds")]
    for c in categories:
        kinds = Counter(s.kind for s in c.test if s.label)
        of = ", ".join(f"{kind} {n}" for kind, n in sorted(kinds.items()))
        rows.append((c.name, str(len(c.train)), str(sum(not s.label for s in c.test)), str(sum(kinds.values())), of))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(row[i].rjust(widths[i]) for i in (1, 2, 3)), row[4]]).rstrip() for row in rows
    ]
    return "\n".join(lines + [f"{c.name}: {c.note}" for c in categories if c.note])
