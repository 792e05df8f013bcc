"""VisA (Zou et al., ECCV 2022) by its one-class split: split_csv/1cls.csv lists every picture with its object and split.

Columns: object, split (train or test), label (normal or anomaly), image and mask (paths relative to the root; mask empty
for a normal picture). All its defects are one kind, "anomaly"."""

import csv
from pathlib import Path

from bikd_fast.data.errors import DataError
from bikd_fast.data.samples import Category, Sample

SPLIT = Path("split_csv") / "1cls.csv"
_COLUMNS = ("object", "split", "label", "image", "mask")


def read_visa(root: Path) -> dict[str, Category]:
    """All categories of VisA by name, in the order of the CSV file.

    Raises DataError if the CSV file is missing or not as described, or a file it names is missing."""
    table = root / SPLIT
    if not table.is_file():
        raise DataError(
            f"{table}: no such file. Point data.root at VisA's folder (the one that holds candle, pcb1, ...) and put the "
            "split file there; it comes with VisA's code (amazon-science/spot-diff)."
        )
    with table.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        missing = [c for c in _COLUMNS if c not in (reader.fieldnames or [])]
        if missing:
            raise DataError(f"{table}: no column {', '.join(missing)}; it has: {', '.join(reader.fieldnames or [])}.")
        categories: dict[str, Category] = {}
        for row in reader:
            sample = _sample(root, row, f"{table} line {reader.line_num}")
            category = categories.setdefault(row["object"], Category(row["object"], [], []))
            (category.train if row["split"] == "train" else category.test).append(sample)
    for category in categories.values():
        if not category.train:
            raise DataError(f"{table}: no training picture of {category.name}. Restore the file from VisA's code.")
    return categories


def _sample(root: Path, row: dict[str, str], where: str) -> Sample:
    if row["split"] not in ("train", "test") or row["label"] not in ("normal", "anomaly"):
        raise DataError(
            f"{where}: split {row['split']!r} and label {row['label']!r}; expected train or test, normal or anomaly."
        )
    label = int(row["label"] == "anomaly")
    if label and row["split"] == "train":
        raise DataError(
            f"{where}: an anomaly in the training split. Training takes normal pictures only; move it to test."
        )
    picture, mask = root / row["image"], root / row["mask"] if row["mask"] else None
    for file in filter(None, (picture, mask)):
        if not file.is_file():
            raise DataError(f"{file}: no such file, named by {where}. Unpack VisA again, or take that line out.")
    return Sample(picture, mask if label else None, label, "anomaly" if label else "good")
