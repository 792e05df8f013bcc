"""What every reader returns: pictures with their labels, and categories of them. No pixels are read here."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

GOOD = "good"


@dataclass(frozen=True)
class Sample:
    """One picture of a data set.

    path: the picture. mask_path: its ground-truth mask, None for a normal picture or where no mask was given.
    label: 0 normal, 1 defect. kind: "good" for a normal picture, else the name of the defect's kind."""

    path: Path
    mask_path: Path | None = None
    label: int = 0
    kind: str = GOOD


@dataclass(frozen=True)
class Category:
    """One kind of product: the normal pictures to train on, and the normal and defective ones to test on.

    note: what a person should know about how the pictures were divided; empty where there is nothing to say."""

    name: str
    train: list[Sample]
    test: list[Sample]
    note: str = ""


def good_pictures(categories: Iterable[Category]) -> list[Sample]:
    """The pictures to train on of all categories together."""
    return [sample for category in categories for sample in category.train]


def has_masks(samples: list[Sample]) -> bool:
    """Whether pixel metrics can be computed: there is a defect among the samples and every defect has a mask."""
    defects = [s for s in samples if s.label]
    return bool(defects) and all(s.mask_path is not None for s in defects)
