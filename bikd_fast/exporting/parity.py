"""The parity gate: the exported file against the detector, on the run's own pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bikd_fast.data import DataError, decode_image, open_dataset
from bikd_fast.exporting.errors import ExportError
from bikd_fast.inference.inputs import square
from bikd_fast.models.detector import Detector

TOLERANCE = 1e-3  # of a score, relative
MOST = 256  # pictures
BATCH = 8


@dataclass(frozen=True)
class Parity:
    """What the comparison found.

    pictures: how many were compared. largest_score: largest |exported - detector| / |detector| of a score, where a score near
    zero counts as a hundredth of the mean. worst: its picture.
    largest_map: largest difference of a map's pixel, relative to the map's largest value. label_flips: pictures that one
    calls anomalous and the other does not. tolerance: that largest_score had to meet. passed: whether all is well.
    """

    pictures: int
    largest_score: float
    worst: str
    largest_map: float
    label_flips: list[str]
    tolerance: float
    passed: bool

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def compare(
    detector: Detector,
    run: Callable[[np.ndarray], dict[str, np.ndarray]],
    paths: Sequence[Path],
    picture_size: tuple[int, int] | None = None,
    tolerance: float = TOLERANCE,
) -> Parity:
    """Score and label of every picture, by the detector as `bikd predict` computes them and by the exported file.

    picture_size: of an export that resizes by itself; pictures of other sizes are left out, and none left is an error.

    Raises:
        ExportError: no picture to compare.
        DataError: a picture cannot be read.
    """
    references, scores, maps, flips, seen = [], [], [0.0], [], []
    for start in range(0, len(paths), BATCH):
        some = [(path, _given(path, detector, picture_size)) for path in paths[start : start + BATCH]]
        chosen = [(path, given) for path, given in some if given is not None]
        if not chosen:
            continue
        known = detector.predict([path for path, _ in chosen])
        found = run(np.stack([given for _, given in chosen]))
        for i, (path, _) in enumerate(chosen):
            references.append(float(known.scores[i]))
            scores.append(float(found["score"][i]))
            seen.append(str(path))
            anomaly = known.maps[i].numpy()
            gap = float(np.abs(found["map"][i] - anomaly).max()) / max(float(np.abs(anomaly).max()), 1e-12)
            maps.append(gap if np.isfinite(gap) else np.inf)
            if known.labels is not None and bool(found["anomalous"][i]) != bool(known.labels[i]):
                flips.append(str(path))
    if not seen:
        wanted = "" if picture_size is None else f" of {picture_size[1]} x {picture_size[0]} pixels"
        raise ExportError(f"no picture{wanted} to check the export with. Give a folder of them with --pictures DIR.")
    size = np.abs(references)
    differences = np.abs(np.subtract(scores, references)) / np.maximum(size, max(0.01 * float(size.mean()), 1e-12))
    differences[~np.isfinite(differences)] = np.inf
    worst = int(np.argmax(differences))
    passed = bool(differences[worst] <= tolerance) and not flips
    return Parity(len(seen), float(differences[worst]), seen[worst], max(maps), flips, tolerance, passed)


def _given(path: Path, detector: Detector, picture_size: tuple[int, int] | None) -> np.ndarray | None:
    """The picture as the exported file takes it, uint8 (H, W, 3); None if it is of another size."""
    if picture_size is None:
        return square(path, detector.image_size).permute(1, 2, 0).contiguous().numpy()
    picture = decode_image(path)
    return picture if picture.shape[:2] == picture_size else None


def run_pictures(run: Path, folder: Path, threshold: float) -> list[Path]:
    """The pictures that the run was evaluated on, at most MOST: those whose scores lie nearest to the threshold, where labels
    flip first, and others spread evenly over the rest. Without predictions, the pictures that config.yaml names.
    """
    tables = [folder / "predictions.npz"] if (folder / "predictions.npz").is_file() else sorted(folder.glob("*/predictions.npz"))
    paths: list[Path] = []
    scores: list[float] = []
    for table in tables:
        try:
            with np.load(table, allow_pickle=False) as kept:
                found, given = [Path(str(path)) for path in kept["path"]], kept["score"].tolist()
        except Exception:  # whatever a damaged file brings up
            continue
        paths += found
        scores += given
    there = [(path, score) for path, score in zip(paths, scores) if path.is_file()]
    if not there:
        return _configured(run)[:MOST]
    if len(there) <= MOST:
        return [path for path, _ in there]
    ordered = sorted(there, key=lambda pair: abs(pair[1] - threshold)) if np.isfinite(threshold) else there
    near, rest = ordered[: MOST // 2], ordered[MOST // 2 :]
    spread = [rest[int(i)] for i in np.linspace(0, len(rest) - 1, MOST - len(near))]
    return [path for path, _ in near + spread]


def _configured(run: Path) -> list[Path]:
    for settings in (run / "config.yaml", run.parent / "config.yaml"):
        if settings.is_file():
            from bikd_fast.arguments import load_run

            data = load_run(settings).data
            try:
                categories = open_dataset(data.format, Path(data.root) if data.root else None, data.category)
            except DataError:  # moved or gone: whoever asks is told that there are no pictures
                return []
            return [sample.path for category in categories for sample in (category.test or category.train)]
    return []
