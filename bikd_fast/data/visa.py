"""VisA (Zou et al., ECCV 2022) by its one-class split: the table split_csv/1cls.csv lists every picture.

Columns: object, split (train or test), label (normal or anomaly), image and mask: paths relative to the root, the mask
empty for a normal picture. All its defects are of one kind, "anomaly"."""

import csv
from pathlib import Path

from bikd_fast.data.errors import DataError
from bikd_fast.data.samples import Category, Sample

SPLIT = Path("split_csv") / "1cls.csv"
Rows = list[tuple[str, dict[str, str]]]  # where a row stands, for messages, and the row
_COLUMNS = ("object", "split", "label", "image", "mask")


def find_visa(root: Path) -> dict[str, Rows]:
    """The rows of every category of VisA by its name, in the order of the CSV file.

    Raises DataError if the file is missing, is no table, or lacks a column, in its head or in a row."""
    table = root / SPLIT
    if not table.is_file():
        raise DataError(
            f"{table}: no such file. Point data.root at VisA's folder (the one that holds candle, pcb1, ...) and put "
            "the split file there; it comes with VisA's code (amazon-science/spot-diff)."
        )
    try:
        found = _rows(table)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table}: not a readable table in UTF-8 ({error}). Restore the file from VisA's code.") from error
    if not found:
        raise DataError(f"{table}: no rows in it. Restore the file from VisA's code.")
    return found


def _rows(table: Path) -> dict[str, Rows]:
    found: dict[str, Rows] = {}
    with table.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        columns = reader.fieldnames or []
        missing = [c for c in _COLUMNS if c not in columns]
        if missing:
            raise DataError(f"{table}: no column {', '.join(missing)}; it has: {', '.join(columns)}. Restore the file.")
        for row in reader:
            where = f"{table} line {reader.line_num}"
            empty = [c for c in _COLUMNS if c != "mask" and not row[c]]
            if empty:
                raise DataError(f"{where}: no {', '.join(empty)} in this row. Complete it, or take that line out.")
            found.setdefault(row["object"], []).append((where, row))
    return found


def read_visa(root: Path, name: str, rows: Rows) -> Category:
    """One category of VisA.

    Raises DataError for an unknown split or label, an anomaly in training, or a file that is missing."""
    train: list[Sample] = []
    test: list[Sample] = []
    for where, row in rows:
        (train if row["split"] == "train" else test).append(_sample(root, where, row))
    if not train:
        raise DataError(f"{root / SPLIT}: no training picture of {name}. Restore the file from VisA's code.")
    return Category(name, train, test)


def _sample(root: Path, where: str, row: dict[str, str]) -> Sample:
    split, label = row["split"], row["label"]
    if split not in ("train", "test") or label not in ("normal", "anomaly"):
        raise DataError(f"{where}: split {split!r}, label {label!r}; expected train or test, normal or anomaly.")
    if label == "anomaly" and split == "train":
        raise DataError(f"{where}: an anomaly to train on. Training takes normal pictures only; move it to test.")
    picture, mask = root / row["image"], root / row["mask"] if row["mask"] else None
    for file in (picture, mask):
        if file is not None and not file.is_file():
            raise DataError(f"{file}: no such file, named by {where}. Unpack VisA again, or take that line out.")
    return Sample(picture) if label == "normal" else Sample(picture, mask, 1, "anomaly")
