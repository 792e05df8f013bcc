"""A trial as Ray Tune runs it: one step a rung, a checkpoint after each, processes used again for the next trial."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray import tune

from bikd_fast.config import ConfigError, RunConfig
from bikd_fast.config_checks import check
from bikd_fast.search.group import advance
from bikd_fast.search.settings import apply
from bikd_fast.search.trial import Rung, Trial, make, plan_of
from bikd_fast.training import distributed, place
from bikd_fast.training.kept import Kept, room

METRIC, RESOURCE = "score", "resource"
FACTOR = 3  # of successive halving: one in three goes on to the next rung
_process: list[tuple[distributed.Ranks, Kept]] = []  # this one's place, and what its trials have in common; made once


def resource(rung: int) -> int:
    """What a rung counts as for Ray's schedulers, whose rungs are powers of the factor."""
    return FACTOR ** (rung - 1)


class Worker(tune.Trainable):
    """One trial after another in this process.

    ``config`` holds the drawn values by key; ``job`` (plain data, the same for all trials) has

    - base: settings as :func:`bikd_fast.search.settings.plain`,
    - whole (one rung only), order (seed of the categories' order), most (categories a trial, 0 for all), parts (of a population's
      schedule): of :func:`bikd_fast.search.trial.rungs`,
    - grid, labels, test, latency: of :class:`bikd_fast.search.trial.Trial`,
    - work: folder visible on every node where trials keep their files, or None,
    - ranks: processes a trial, and gpus: how many it has.
    """

    def setup(self, config: dict[str, Any], job: Mapping[str, Any]) -> None:  # type: ignore[override]
        self.job = job
        self._begin(config)

    def _begin(self, config: Mapping[str, Any]) -> None:
        self.failure: str | None = None
        self.trial: Trial | None = None
        self.began = time.perf_counter()
        work = self.job["work"]
        self.temporary = None if work else tempfile.mkdtemp(prefix="bikd-trial-")
        self.folder = Path(work) / self.trial_id if work else Path(str(self.temporary))
        try:
            self.settings, self.plan = settings_of(self.job, config)
            if self.job["ranks"] == 1:
                if not _process:
                    place.alone()  # whatever the cluster was started from
                    ranks = distributed.start()
                    _process.append((ranks, Kept(room(ranks.device))))
                self.trial = make(self.job, self.settings, self.plan, self.folder, *_process[0])
        except Exception as error:
            self.failure = reason(error)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.cleanup()
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Up to the next rung. What a trial fails of is its result: the lowest score, with the reason, and no second attempt."""
        if self.failure is None:
            try:
                return self._advance() | {"reason": ""}
            except Exception as error:
                traceback.print_exc()
                self.failure = reason(error)
        return {METRIC: 0.0, RESOURCE: resource(len(self.plan) if hasattr(self, "plan") else 1), "rung": 0} | {
            "reason": self.failure, "finished": True, "done": True, "latency": 1e9, **where(),
        }  # fmt: skip

    def _advance(self) -> dict[str, Any]:
        if self.trial is not None:
            found = self.trial.advance()
        else:
            found = advance(self.job, self.settings, self.plan, self.folder)
        waited = time.perf_counter() - self.began
        self.began = time.perf_counter()
        return found | {RESOURCE: resource(found["rung"]), "done": found["finished"], "step_seconds": round(waited, 2), **where()}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        if self.trial is not None:
            self.trial.save(Path(checkpoint_dir))
        elif (self.folder / "progress.json").is_file():
            shutil.copy(self.folder / "progress.json", checkpoint_dir)
        else:
            (Path(checkpoint_dir) / "failed").touch()

    def load_checkpoint(self, checkpoint: str) -> None:  # type: ignore[override]
        folder = Path(checkpoint)
        if self.trial is not None and (folder / "progress.json").is_file():
            self.trial.load(folder)
        elif self.job["ranks"] > 1 and (folder / "progress.json").is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / "progress.json", self.folder)

    def cleanup(self) -> None:
        if self.temporary:
            shutil.rmtree(self.temporary, ignore_errors=True)


def settings_of(job: Mapping[str, Any], values: Mapping[str, Any]) -> tuple[RunConfig, list[Rung]]:
    """Settings and rungs of the trial that drew ``values``.

    Raises:
        ConfigError: settings that cannot work.
    """
    values = values.get("point", values)
    config = apply(job["base"], {key: value for key, value in values.items() if not key.startswith("_")})
    check(config)
    return config, plan_of(config, job["order"], job["most"], job["whole"], job["parts"])


def reason(error: Exception) -> str:
    """One line for the table of trials."""
    text = str(error).strip().splitlines()
    first = text[0] if text else ""
    return first if isinstance(error, ConfigError) else f"{type(error).__name__}: {first}"


def where() -> dict[str, str]:
    """Which code this process runs, on which machine."""
    import bikd_fast

    return {"code": str(Path(str(bikd_fast.__file__)).parent), "host": os.uname().nodename}
