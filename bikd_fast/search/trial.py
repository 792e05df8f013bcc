"""One trial: the settings it got, trained rung by rung and judged at each. Knows nothing of Ray; a worker of it calls this.

A rung is a list of (category, steps): what has to be trained, in all, before the trial is judged. All rungs are parts of one and
the same training with one and the same schedule: the first goes half way through it in one category, the second finishes that
category, the last finishes several or all. A trial that is stopped early has cost little; one that reaches the top is the job
itself, so `bikd train` with its settings makes the same detectors to the bit. Map settings are tried at the last rung. For a
population all rungs are equal parts of the schedule in the same categories: a trial takes over another's networks in between.
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

from bikd_fast import heap
from bikd_fast.config import MapConfig, RunConfig
from bikd_fast.data import Category, good_pictures, open_dataset
from bikd_fast.data.cache import identity
from bikd_fast.models.detector import FILE_NAME, Detector
from bikd_fast.search.measuring import measure, milliseconds, score, test_metrics, variants
from bikd_fast.search.settings import plain
from bikd_fast.search.validation import validation
from bikd_fast.training import checkpoint
from bikd_fast.training.distributed import Ranks
from bikd_fast.training.folder import fingerprint
from bikd_fast.training.kept import NOTHING, Kept
from bikd_fast.training.run import joint, meet, train_one, training_groups

Rung = list[tuple[str, int]]  # (category or "shared", steps of the whole schedule)


def rungs(names: Sequence[str], steps: int, seed: int = 0, most: int = 0, whole: bool = False, parts: int = 0) -> list[Rung]:
    """What is trained up to each rung.

    Args:
        names: of the detectors of the job.
        seed: of the order that they are taken in.
        most: detectors a trial trains; 0 is all.
        whole: one rung with everything.
        parts: so many rungs in the same categories, each an equal part of the schedule; 0 is what the module says first.
    """
    order = list(names)
    random.Random(seed).shuffle(order)
    full = [(name, steps) for name in order]
    if whole or steps < 2:
        return [full]
    if parts:
        stops = sorted({-(-steps * i // parts) for i in range(1, parts + 1)})
        return [[(name, stop) for name in order[: most or None]] for stop in stops]
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
        kept: what trials before in this process have computed.
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
        kept: Kept = NOTHING,
    ) -> None:
        self.config = replace(config, output=str(folder), resume="auto", report=False)
        self.plan, self.folder, self.ranks, self.labels = plan, folder, ranks, labels
        self.test, self.latency, self.kept = test, latency, kept
        self.maps = variants(config.map, dict(grid or {}))
        self.ends = {name: until for rung in plan for name, until in rung}  # the last rung of a name is its whole schedule
        self.progress = Progress(settings=digest(config))

    @heap.kept()
    def advance(self) -> dict[str, Any]:
        """Train and judge up to the next rung; returns the result there (plain data)."""
        began = time.perf_counter()
        progress = self.progress
        groups = dict(groups_of(self.config))
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
            self._read_log(name, progress.steps.get(name, 0))
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
        if self.ranks.first and until < self.ends[name] and _further_than(folder, until):
            shutil.rmtree(folder)  # of a trial that a killed driver had let go on: a rung is judged at its own steps
        meet(self.ranks)
        if (folder / FILE_NAME).is_file():
            detector = Detector.load(folder, self.ranks.device)
            detector.backbone.to(memory_format=torch.channels_last)  # as it trained
            return detector
        return train_one(self.config, name, group, folder, self.ranks, until, self.kept, diagnosed=False)

    def _judge(self, name: str, group: Sequence[Category], detector: Detector, maps: list[MapConfig], last: bool) -> None:
        data = validation(self.config, name, group, self.labels, self.kept)
        found = measure(detector, data, maps, self.kept)
        for place, metrics in zip(self.progress.found, found):
            place[name] = metrics
        if self.latency:
            self.progress.latency = milliseconds(detector)
        if self.test and last:
            for category in group:
                if any(s.label for s in category.test):
                    self.progress.test[category.name] = test_metrics(detector, category, self.config)

    def _read_log(self, name: str, begun: int) -> None:
        """Losses, and the seconds that the steps after ``begun`` took; the last of them has its line."""
        path = self.folder / name / "log.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
        rows = [row for row in rows if "pictures_per_second" in row]
        before = begun
        for row in [row for row in rows if row["step"] > begun]:
            pictures = (row["step"] - before) * self.config.training.batch_size
            self.progress.training += pictures / row["pictures_per_second"]
            before = row["step"]
        self.progress.losses[name] = [(row["step"], round(row["loss"], 5)) for row in rows]

    def save(self, folder: Path) -> None:
        """Everything that going on elsewhere needs: what was done, and the newest checkpoint of a training in the middle."""
        (folder / "progress.json").write_text(json.dumps(asdict(self.progress)))
        for name, until in self.progress.steps.items():
            if until < self.ends[name]:
                newest = max((self.folder / name / "checkpoints").glob("step-*.safetensors"), default=None)
                if newest is not None:
                    shutil.copy(newest, folder / f"{name}@{newest.name}")
                log = self.folder / name / "log.jsonl"
                if log.is_file():
                    shutil.copy(log, folder / f"{name}@log.jsonl")

    def load(self, folder: Path) -> None:
        """Take up what :meth:`save` left: this trial, or another one whose networks are to go on with this one's settings."""
        kept = json.loads((folder / "progress.json").read_text())
        self.progress = Progress(**kept)
        own = digest(self.config)
        another = self.progress.settings != own
        self.progress.mixed |= another
        self.progress.settings = own
        if another:
            shutil.rmtree(self.folder, ignore_errors=True)
        groups = dict(groups_of(self.config)) if another else {}
        for file in folder.glob("*@*"):
            name, _, what = file.name.partition("@")
            training = what.startswith("step-")
            place = self.folder / name / ("checkpoints" if training else "")
            place.mkdir(parents=True, exist_ok=True)
            if another and training:
                checkpoint.adopt(file, place, fingerprint(self.config, name, identity(good_pictures(groups[name]))))
            elif not (place / what).is_file():
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


def groups_of(config: RunConfig) -> list[tuple[str, list[Category]]]:
    """The detectors of a job and what each is trained on.

    Raises:
        DataError: the data set is not there.
    """
    return training_groups(config, _categories(config))


def plan_of(config: RunConfig, order: int, most: int = 0, whole: bool = False, parts: int = 0) -> list[Rung]:
    """:func:`rungs` of a job, in the order of the seed ``order``.

    Raises:
        DataError: the data set is not there.
    """
    groups = groups_of(config)
    steps = joint(config, groups[0][1]).training.steps  # one group of all, or groups of one
    return rungs([name for name, _ in groups], steps, order, most, whole, parts)


def make(job: Mapping[str, Any], config: RunConfig, plan: list[Rung], folder: Path, ranks: Ranks, kept: Kept = NOTHING) -> Trial:
    """The trial of a job's settings; ``job``: see :class:`bikd_fast.search.worker.Worker`."""
    return Trial(config, plan, folder, ranks, job["grid"], job["labels"], job["test"], job["latency"], kept)


def own_map(config: RunConfig, found: Mapping[str, Any]) -> RunConfig:
    """``config`` with the map settings that a trial's result names."""
    return replace(config, map=MapConfig(**found))
