"""Names of the heat maps that an evaluation leaves: one a picture, none twice, none of an earlier evaluation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from bikd_fast.data import Sample


def heatmap_names(samples: Sequence[Sample]) -> list[str]:
    """``KIND_NAME.jpg`` of each; pictures that would share one keep their suffix (``good_a.png.jpg``) or get a number.

    The same for the same samples in the same order, so that ranks that draw some of them agree. Case does not tell names apart,
    because on some file systems it does not.
    """
    plain = [f"{sample.kind}_{sample.path.stem}" for sample in samples]
    shared = Counter(name.lower() for name in plain)
    names, taken = [], set()
    for sample, name in zip(samples, plain):
        wanted = name if shared[name.lower()] == 1 else f"{sample.kind}_{sample.path.name}"
        name, number = wanted, 1
        while name.lower() in taken or (number > 1 and name.lower() in shared):
            number += 1
            name = f"{wanted}-{number}"
        taken.add(name.lower())
        names.append(f"{name}.jpg")
    return names


def remove_others(folder: Path, names: Iterable[str]) -> None:
    """Delete heat maps in the folder that have none of these names: those of an earlier evaluation."""
    kept = {name.lower() for name in names}
    for path in folder.glob("*.jpg"):
        if path.name.lower() not in kept:
            path.unlink(missing_ok=True)
