"""Reads the plain data of a run folder. What is missing or damaged becomes a sentence for the page, not a crash."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bikd_fast.report.table import number


@dataclass(frozen=True)
class Predictions:
    """predictions.npz of one category, N test pictures in one order."""

    path: list[str]
    kind: list[str]
    label: np.ndarray  # bool (N,), true = defect
    score: np.ndarray  # float32 (N,)
    map: np.ndarray | None  # float16 (N, S, S), display copies
    mask_path: list[str]  # "" where there is none
    threshold: float  # of the score, NaN where none is recorded
    pixel_threshold: float  # of the map; the score's own where none is recorded


@dataclass(frozen=True)
class CategoryFolder:
    name: str
    folder: Path
    metrics: dict[str, Any]


@dataclass
class RunFolder:
    path: Path
    name: str
    config: str  # text of config.yaml, "" where there is none
    environment: dict[str, Any]
    metrics: dict[str, Any]  # metrics.json, see _formed
    categories: list[CategoryFolder]
    notes: list[str] = field(default_factory=list)  # what is missing, one sentence each


def read_run(path: Path) -> RunFolder:
    """The run at path, without its predictions and logs, which are read one category at a time.

    Raises FileNotFoundError where there is no folder, ValueError where the folder holds nothing of a run.
    """
    if not path.is_dir():
        raise FileNotFoundError(f"no run folder at {path}: give the folder that training wrote")
    if not _looks_like_run(path):
        raise ValueError(
            f"{path} is not a run folder: it holds no config.yaml, metrics.json, log.jsonl or predictions.npz"
        )
    notes: list[str] = []
    config = _read(path / "config.yaml", lambda file: file.read_text("utf-8", errors="replace"), notes) or ""
    metrics = _formed(_read_object(path / "metrics.json", notes), notes)
    environment = _read_object(path / "environment.json", notes)
    name = path.resolve().name
    return RunFolder(path, name, config, environment, metrics, _categories(path, metrics, name), notes)


def read_predictions(category: CategoryFolder, notes: list[str]) -> Predictions | None:
    """The category's predictions.npz, or None and a note."""
    return _read(category.folder / "predictions.npz", _load_predictions, notes, category.name)


def read_log(folder: Path, notes: list[str], category: str = "") -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """log.jsonl as {key: (step (n,), value (n,))}, numeric keys only; a line that is not JSON is left out and noted."""
    text = _read(folder / "log.jsonl", lambda file: file.read_text("utf-8", errors="replace"), notes, category)
    series: dict[str, tuple[list[float], list[float]]] = {}
    damaged = 0
    for order, line in enumerate(filter(str.strip, (text or "").splitlines())):
        try:
            entry = json.loads(line)
        except ValueError:
            entry = None
        if not isinstance(entry, dict):
            damaged += 1
            continue
        step = number(entry.get("step"))
        for key, value in _numbers(entry):
            at, values = series.setdefault(key, ([], []))
            at.append(order if np.isnan(step) else step)
            values.append(value)
    if damaged:
        notes.append(f"{_where('log.jsonl', category)}: {damaged} line(s) are not JSON objects and were left out.")
    return {key: (np.array(at), np.array(values)) for key, (at, values) in series.items()}


def _numbers(entry: dict[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    """Numeric leaves of a log line; {"terms": {"div": 1}} gives terms.div."""
    found = []
    for key, value in entry.items():
        if isinstance(value, dict):
            found += _numbers(value, f"{prefix}{key}.")
        elif isinstance(value, int | float) and not isinstance(value, bool) and prefix + key != "step":
            found.append((prefix + key, number(value)))
    return found


def _formed(metrics: dict[str, Any], notes: list[str]) -> dict[str, Any]:
    """metrics.json with an object for every category and for the mean and a list of the skipped, without what is none."""
    found = dict(metrics)
    for key in [key for key in ("categories", "mean") if not isinstance(found.get(key, {}), dict)]:
        notes.append(f"metrics.json: {key} is no object and was left out.")
        del found[key]
    if "categories" in found:
        entries = {name: entry for name, entry in found["categories"].items() if isinstance(entry, dict)}
        if lost := [name for name in found["categories"] if name not in entries]:
            notes.append(f"metrics.json: no metrics of {', '.join(lost)}.")
        found["categories"] = {
            name: {k: v for k, v in entry.items() if k != "skipped" or isinstance(v, list)} for name, entry in entries.items()
        }
    return found


def _looks_like_run(path: Path) -> bool:
    if any((path / name).is_file() for name in ("config.yaml", "metrics.json", "log.jsonl", "predictions.npz")):
        return True
    return any(path.glob("*/predictions.npz")) or any(path.glob("*/log.jsonl"))


def _categories(path: Path, metrics: dict[str, Any], run_name: str) -> list[CategoryFolder]:
    """Categories of metrics.json, then folders that hold predictions or a log; else the one at path itself."""
    entries = metrics.get("categories", {})
    folders = [
        found.parent.name for kind in ("predictions.npz", "log.jsonl") for found in sorted(path.glob(f"*/{kind}"))
    ]
    names = list(dict.fromkeys([*map(str, entries), *folders])) or [run_name]
    found = []
    for name in names:
        plain = name not in ("", ".", "..") and not {"/", "\\", "\0"} & set(name)  # never outside the run
        own = plain and os.path.isdir(path / name)  # not Path.is_dir: for a name that is too long it raises an OSError
        folder = path / name if own or (len(names) > 1 and plain) else path
        found.append(CategoryFolder(name, folder, entries.get(name, {})))
    return found


def _load_predictions(file: Path) -> Predictions:
    with np.load(file, allow_pickle=False) as data:
        missing = [key for key in ("path", "kind", "label", "score") if key not in data]
        if missing:
            raise ValueError(f"has no {', '.join(missing)}; found {', '.join(data.files) or 'nothing'}")
        paths = [str(path) for path in data["path"]]
        kinds, labels, scores = data["kind"], data["label"], data["score"]
        maps = data.get("map")
        masks = [str(path) for path in data["mask_path"]] if "mask_path" in data else [""] * len(paths)
        threshold = float(data["threshold"]) if "threshold" in data else float("nan")
        pixel = float(data["pixel_threshold"]) if "pixel_threshold" in data else threshold
    lengths = {len(paths), len(kinds), len(labels), len(scores), len(masks)} | (
        {len(maps)} if maps is not None else set()
    )
    if len(lengths) != 1:
        raise ValueError(f"its arrays differ in length: {sorted(lengths)}")
    if labels.ndim != 1 or scores.ndim != 1 or (maps is not None and maps.dtype.kind not in "fiu"):
        raise ValueError("its labels, scores and maps are not numbers of each picture")
    if maps is not None and (maps.ndim != 3 or 0 in maps.shape[1:]):
        maps = None  # scores alone were kept
    return Predictions(
        paths, [str(k) for k in kinds], labels.astype(bool), scores.astype(np.float32), maps, masks, threshold, pixel
    )


def _read_object(file: Path, notes: list[str]) -> dict[str, Any]:
    def load(file: Path) -> dict[str, Any]:
        value = json.loads(file.read_text("utf-8"))
        if not isinstance(value, dict):
            raise ValueError("is not a JSON object")
        return value

    return _read(file, load, notes) or {}


def _read(file: Path, load: Callable[[Path], Any], notes: list[str], category: str = "") -> Any:
    where = _where(file.name, category)
    try:
        return load(file)
    except FileNotFoundError:
        notes.append(f"{where} is missing: {_CONSEQUENCE[file.name]}")
    except Exception as error:  # whatever a damaged file brings up, the rest of the page is still worth having
        notes.append(f"{where} could not be read ({error}): {_CONSEQUENCE[file.name]}")
    return None


def _where(file: str, category: str) -> str:
    return f"{category}: {file}" if category else file


_CONSEQUENCE = {
    "config.yaml": "the configuration is not shown.",
    "metrics.json": "there is no table of exact metrics.",
    "environment.json": "versions, machine and commit are not shown.",
    "predictions.npz": "no scores, curves or pictures.",
    "log.jsonl": "no training curves.",
}
