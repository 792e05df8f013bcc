"""Which trials go on, and what is tried next: Ray's own, plus memory of the rungs that a restored search had reached."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ray.tune.schedulers import ASHAScheduler, PopulationBasedTraining, TrialScheduler
from ray.tune.search import BasicVariantGenerator, ConcurrencyLimiter

from bikd_fast.search.worker import FACTOR, METRIC, RESOURCE, resource
from tune.records import read_rows
from tune.space import Space, to_ray


class Asha(ASHAScheduler):
    """Asynchronous successive halving (Li et al., "A System for Massively Parallel Hyperparameter Tuning", MLSys 2020).

    Ray forgets a scheduler's state when a search is restored (ray issue 30838); this one reads it from what was recorded, so
    that a trial is judged by all that came before it. The first trial, the job's own settings, is never stopped: whatever wins
    has to be compared with it on the same ground.
    """

    def __init__(self, top: int, record: Path, own: dict[str, Any]) -> None:
        super().__init__(time_attr=RESOURCE, metric=METRIC, mode="max", max_t=top, grace_period=1, reduction_factor=FACTOR)
        self._record, self._remembered, self._own = str(record), False, own

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        if not self._remembered:
            self._remembered = True
            for row in read_rows(Path(self._record)):
                for rung, score in row.history:
                    for milestone, recorded in self._brackets[0]._rungs:
                        if milestone == resource(rung):
                            recorded.setdefault(row.trial, score)
        super().on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict) -> str:
        decided = super().on_trial_result(tune_controller, trial, result)
        return TrialScheduler.CONTINUE if trial.config == self._own else decided


def scheduler(kind: str, space: Space, top: int, record: Path, own: dict[str, Any]) -> TrialScheduler:
    """``asha`` or ``pbt``; ``own``: the job's own settings, which are tried first."""
    if kind == "asha":
        return Asha(top, record, own)
    return PopulationBasedTraining(
        time_attr="rung",
        metric=METRIC,
        mode="max",
        perturbation_interval=1,
        hyperparam_mutations={key: value for key, value in to_ray(space).items() if not key.startswith("model.")},
        synch=False,
    )


def searcher(kind: str, space: Space, first: list[dict[str, Any]], seed: int, latency: bool, at_once: int) -> Any:
    """``random`` or ``optuna`` (TPE; two objectives where latency counts).

    Raises:
        ImportError: optuna is not installed.
    """
    if kind == "random":
        return BasicVariantGenerator(points_to_evaluate=first, max_concurrent=at_once, random_state=seed)
    import optuna
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    metric, mode = ([METRIC, "latency"], ["max", "min"]) if latency else (METRIC, "max")
    return ConcurrencyLimiter(
        OptunaSearch(
            to_ray(space), metric=metric, mode=mode, points_to_evaluate=first, sampler=optuna.samplers.TPESampler(seed=seed)
        ),
        max_concurrent=at_once,
    )
