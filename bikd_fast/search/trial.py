"""One trial: the settings it got, trained rung by rung and judged at each. Knows nothing of Ray; a worker of it calls this.

A rung is a list of (category, steps): what has to be trained, in all, before the trial is judged. All rungs are parts of one and
the same training with one and the same schedule: the first goes half way through it in one category, the second finishes that
category, the last finishes several or all. A trial that is stopped early has cost little; one that reaches the top is the job
itself, so `bikd train` with its settings makes the same detectors to the bit. Map settings are tried at the last rung.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from bikd_fast.config import MapConfig, RunConfig
from bikd_fast.data import Category, has_masks, load_images, load_masks, open_dataset
from bikd_fast.data.load import fit
from bikd_fast.errors import UserError
from bikd_fast.inference.runner import run
from bikd_fast.metrics import evaluate
from bikd_fast.models.detector import FILE_NAME, Detector
from bikd_fast.search.settings import plain
from bikd_fast.search.validation import Validation, labelled, measure, score, simulated, variants
from bikd_fast.training.distributed import Ranks
from bikd_fast.training.run import meet, split, train_one, training_groups

Rung = list[tuple[str, int]]  # (category or "shared", steps of the whole schedule)
TRUE = ("image_auroc", "pixel_auroc", "aupro")  # reported of the test set, never chosen by


def rungs(names: Sequence[str], steps: int, seed: int = 0, most: int = 0, whole: bool = False) -> list[Rung]:
    """What is trained up to each rung.

    Args:
        names: of the detectors of the job.
        seed: of the order that they are taken in.
        most: detectors a trial trains; 0 is all.
        whole: one rung with everything.
    """
    order = list(names)
    random.Random(seed).shuffle(order)
    full = [(name, steps) for name in order]
    if whole or steps < 2:
        return [full]
    plan = [[(order[0], (steps + 1) // 2)], full[:1], full[: most or None]]
    return [rung for i, rung in enumerate(plan) if rung not in plan[:i]]


@dataclass
class Progress:
    """What a trial has done so far: plain data, its checkpoint.

    Attributes:
        rung: rungs reached.
        found: for each map setting tried, {category: metrics}; those of the newest rung that judged the category.
        steps: {category: steps trained when it was judged}.
        curve: (rung, objective) at each rung.
        losses: {category: [(step, loss)]}.
        test: {category: metrics} of the test set, where asked for.
        training: seconds in training steps.
        seconds: in all.
        settings: digest of what was trained by; mixed: they were changed on the way, as population-based training does.
    """

    rung: int = 0
    found: list[dict[str, dict[str, float]]] = field(default_factory=list)
    steps: dict[str, int] = field(default_factory=dict)
    curve: list[tuple[int, float]] = field(default_factory=list)
    losses: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    test: dict[str, dict[str, float]] = field(default_factory=dict)
    training: float = 0.0
    seconds: float = 0.0
    latency: float | None = None
    settings: str = ""
    mixed: bool = False


class Trial:
    """The training of one setting, that can stop after any rung and go on elsewhere.

    Args:
        config: its settings.
        plan: of :func:`rungs`.
        folder: where detectors, logs and training checkpoints go; a trial that finds its own there goes on from them.
        grid: map settings to try on every trained detector besides its own, {name: values}.
        labels: folder of the user's own labelled pictures, laid out as data.format; None judges by simulated defects.
        test: also measure the test set at the last rung, for the record.
        latency: also measure milliseconds a picture.
    """

    def __init__(
        self,
        config: RunConfig,
        plan: list[Rung],
        folder: Path,
        ranks: Ranks,
        grid: Mapping[str, list[Any]] | None = None,
        labels: str | None = None,
        test: bool = False,
        latency: bool = False,
    ) -> None:
        self.config = replace(config, output=str(folder), resume="auto", report=False)
        self.plan, self.folder, self.ranks, self.labels = plan, folder, ranks, labels
        self.test, self.latency = test, latency
        self.maps = variants(config.map, dict(grid or {}))
        self.progress = Progress(settings=digest(config))

    def advance(self) -> dict[str, Any]:
        """Train and judge up to the next rung; returns the result there (plain data)."""
        began = time.perf_counter()
        progress = self.progress
        groups = dict(training_groups(self.config, _categories(self.config)))
        last = progress.rung + 1 == len(self.plan)
        maps = self.maps if last else self.maps[:1]
        progress.found += [{} for _ in maps[len(progress.found) :]]
        for name, until in self.plan[progress.rung]:
            trained = progress.steps.get(name, 0) >= until
            if trained and (not self.ranks.first or name in progress.found[len(maps) - 1]):
                continue
            detector = self._trained(name, groups[name], until)
            if self.ranks.first:
                self._judge(name, groups[name], detector, maps, last)
            self._read_log(name, progress.steps.get(name, 0), until)
            progress.steps[name] = until
        progress.rung += 1
        progress.seconds += time.perf_counter() - began
        if not self.ranks.first:
            return {}
        best = max(range(len(maps)), key=lambda i: self._score(i))
        progress.curve.append((progress.rung, self._score(best)))
        return self._result(best, last)

    def _result(self, best: int, last: bool) -> dict[str, Any]:
        progress = self.progress
        names = [name for name, _ in self.plan[progress.rung - 1]]
        return {
            "rung": progress.rung,
            "rungs": len(self.plan),
            "score": self._score(best),
            "score_own_map": self._score(0),
            "map": asdict(self.maps[best]),
            "metrics": {name: progress.found[best][name] for name in names},
            "test": progress.test,
            "losses": progress.losses,
            "curve": progress.curve,
            "latency": progress.latency,
            "training_seconds": round(progress.training, 2),
            "trial_seconds": round(progress.seconds, 2),
            "finished": last,
            "mixed": progress.mixed,
        }

    def _score(self, place: int) -> float:
        found = [self.progress.found[place][name] for name, _ in self.plan[self.progress.rung - 1]]
        return sum(map(score, found)) / len(found)

    def _trained(self, name: str, group: Sequence[Category], until: int) -> Detector:
        folder = self.folder / name
        if self.ranks.first and until < self.config.training.steps and _further_than(folder, until):
            shutil.rmtree(folder)  # of a trial that a killed driver had let go on: a rung is judged at its own steps
        meet(self.ranks)
        if (folder / FILE_NAME).is_file():
            return Detector.load(folder, self.ranks.device)
        return train_one(self.config, name, group, folder, self.ranks, until)

    def _judge(self, name: str, group: Sequence[Category], detector: Detector, maps: list[MapConfig], last: bool) -> None:
        data = validation(self.config, name, group, self.labels)
        found = measure(detector, data, maps)
        for place, metrics in zip(self.progress.found, found):
            place[name] = metrics
        if self.latency:
            self.progress.latency = milliseconds(detector)
        if self.test and last:
            for category in group:
                if any(s.label for s in category.test):
                    self.progress.test[category.name] = test_metrics(detector, category, self.config)

    def _read_log(self, name: str, begun: int, until: int) -> None:
        """Losses, and the seconds that steps ``begun`` to ``until`` took: what lies behind the last line counts at its speed."""
        path = self.folder / name / "log.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
        rows = [row for row in rows if "pictures_per_second" in row]
        before = begun
        new = [row for row in rows if row["step"] > begun]
        for row in [*new, *([new[-1] | {"step": until}] if new else [])]:
            pictures = (row["step"] - before) * self.config.training.batch_size
            self.progress.training += pictures / row["pictures_per_second"]
            before = row["step"]
        self.progress.losses[name] = [(row["step"], round(row["loss"], 5)) for row in rows]

    def save(self, folder: Path) -> None:
        """Everything that going on elsewhere needs: what was done, and the newest checkpoint of a training in the middle."""
        (folder / "progress.json").write_text(json.dumps(asdict(self.progress)))
        for name, until in self.progress.steps.items():
            if until < self.config.training.steps:
                newest = max((self.folder / name / "checkpoints").glob("step-*.safetensors"), default=None)
                if newest is not None:
                    shutil.copy(newest, folder / f"{name}@{newest.name}")
                log = self.folder / name / "log.jsonl"
                if log.is_file():
                    shutil.copy(log, folder / f"{name}@log.jsonl")

    def load(self, folder: Path) -> None:
        """Take up what :meth:`save` left."""
        kept = json.loads((folder / "progress.json").read_text())
        self.progress = Progress(**kept)
        own = digest(self.config)
        self.progress.mixed |= self.progress.settings != own and self.progress.rung > 0
        self.progress.settings = own
        for file in folder.glob("*@*"):
            name, _, what = file.name.partition("@")
            place = self.folder / name / ("checkpoints" if what.startswith("step-") else "")
            place.mkdir(parents=True, exist_ok=True)
            if not (place / what).is_file():
                shutil.copy(file, place / what)


def _further_than(folder: Path, steps: int) -> bool:
    """Whether the training in ``folder`` has gone beyond ``steps``."""
    newest = max((folder / "checkpoints").glob("step-*.safetensors"), default=None)
    return (folder / FILE_NAME).is_file() or (newest is not None and int(newest.stem.removeprefix("step-")) > steps)


def digest(config: RunConfig) -> str:
    """Of all settings but where the run goes."""
    return hashlib.sha256(json.dumps(plain(replace(config, output=None, report=False)), sort_keys=True).encode()).hexdigest()[
        :16
    ]


def _categories(config: RunConfig) -> list[Category]:
    return open_dataset(config.data.format, Path(config.data.root) if config.data.root else None, config.data.category)


def names_of(config: RunConfig) -> list[str]:
    """Of the detectors of a job.

    Raises:
        DataError: the data set is not there.
    """
    return [name for name, _ in training_groups(config, _categories(config))]


_kept: dict[tuple, Validation] = {}


def validation(config: RunConfig, name: str, group: Sequence[Category], labels: str | None = None) -> Validation:
    """The validation set of a detector: the good pictures that :func:`bikd_fast.training.run.train_one` holds out, with defects
    of the search's own; or the labelled pictures of ``labels``. Kept for the next trial of this process.

    Raises:
        UserError: too few held-out pictures, or ``labels`` has no defects with masks.
    """
    data = config.data
    key = (name, str(group[0].train[0].path), data.image_size, data.holdout, config.seed, labels)
    if key not in _kept:
        samples = [sample for category in group for sample in category.train]
        if data.on_bad_image == "error":
            _, held_out = split(len(samples), data.holdout, config.seed)
            apart, _, _ = load_images([samples[i] for i in held_out], data.image_size)
        else:
            pictures, kept, _ = load_images(samples, data.image_size, on_bad_image="skip")
            apart = pictures[split(len(kept), data.holdout, config.seed)[1]]
        _kept[key] = simulated(name, apart) if labels is None else _own(config, name, group, labels, apart)
    return _kept[key]


def _own(config: RunConfig, name: str, group: Sequence[Category], labels: str, apart: torch.Tensor) -> Validation:
    format = "mvtec" if config.data.format == "textures" else config.data.format
    there = open_dataset(format, Path(labels), "all")
    wanted = {category.name for category in group}
    samples = [s for c in there if c.name in wanted or len(there) == len(wanted) == 1 for s in c.test]
    if not has_masks(samples) or not any(s.label == 0 for s in samples):
        raise UserError(f"{labels}: {name} needs good pictures and defects with masks there to be judged by.")
    size = config.data.image_size
    pictures, samples, _ = load_images(samples, size, on_bad_image=config.data.on_bad_image)
    masks = [fit(torch.from_numpy(m)[None].expand(3, -1, -1).float(), size)[0].numpy() >= 0.5 for m in load_masks(samples)]
    return labelled(pictures, masks, [s.kind for s in samples], apart)


def test_metrics(detector: Detector, category: Category, config: RunConfig) -> dict[str, float]:
    """:data:`TRUE` of the test set as `bikd evaluate` measures them. For reports; nothing is chosen by it."""
    pictures, samples, _ = load_images(category.test, detector.image_size, on_bad_image=config.data.on_bad_image)
    outputs = run(detector, pictures)
    if not has_masks(samples):
        masks: list[Any] = [torch.zeros(1, 1, dtype=torch.bool).numpy()] * len(samples)
        labels = [s.label for s in samples]
        result = evaluate([torch.zeros(1, 1).numpy()] * len(samples), masks, scores=outputs.scores.numpy(), labels=labels)
        return {"image_auroc": result["image_auroc"]}
    result = evaluate(
        list(outputs.maps.numpy()),
        load_masks(samples),
        scores=outputs.scores.numpy(),
        labels=[s.label for s in samples],
        threads=torch.get_num_threads(),
    )
    return {key: result[key] for key in TRUE}


@torch.inference_mode()
def milliseconds(detector: Detector, repeats: int = 7) -> float:
    """Median time of one picture through the detector, batch of 1, on its device."""
    x = torch.rand(1, 3, detector.image_size, detector.image_size, device=detector.device)
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        detector(x)[1].item()
        times.append(1000 * (time.perf_counter() - began))
    return sorted(times)[repeats // 2]


def own_map(config: RunConfig, found: Mapping[str, Any]) -> RunConfig:
    """``config`` with the map settings that a trial's result names."""
    return replace(config, map=MapConfig(**found))
