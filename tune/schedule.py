"""Which trials go on, and what is tried next: Ray's own, plus memory of the rungs that a restored search had reached."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from ray.tune.schedulers import ASHAScheduler, PopulationBasedTraining, TrialScheduler
from ray.tune.search import BasicVariantGenerator, ConcurrencyLimiter

from bikd_fast.search.worker import FACTOR, METRIC, RESOURCE, resource
from tune.records import read_rows
from tune.space import Choice, Range, Space, to_ray

PARTS = 5  # of a population's schedule: after each but the last the worst take over from the best


class Asha(ASHAScheduler):
    """Asynchronous successive halving (Li et al., "A System for Massively Parallel Hyperparameter Tuning", MLSys 2020).

    Ray forgets a scheduler's state when a search is restored (ray issue 30838); this one reads it from what was recorded, so
    that a trial is judged by all that came before it. The first trial, the job's own settings, is never stopped: whatever wins
    has to be compared with it on the same ground.
    """

    def __init__(self, top: int, record: Path, own: dict[str, Any]) -> None:
        super().__init__(time_attr=RESOURCE, metric=METRIC, mode="max", max_t=top, grace_period=1, reduction_factor=FACTOR)
        self.record, self._remembered, self._own = str(record), False, own

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        if not self._remembered:
            self._remembered = True
            for row in read_rows(Path(self.record)):
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
    drawn = {key: entry for key, entry in space.items() if not key.startswith("model.")}  # the networks stay what they are
    samplers = to_ray(drawn)
    return PopulationBasedTraining(
        time_attr="rung",
        metric=METRIC,
        mode="max",
        perturbation_interval=1,
        # Ray multiplies what it changes, and would multiply the values of a choice unless they are a list
        hyperparam_mutations={
            key: list(entry.values) if isinstance(entry, Choice) else samplers[key] for key, entry in drawn.items()
        },
        custom_explore_fn=partial(clipped, space),
        synch=False,
    )


def clipped(space: Space, values: dict[str, Any]) -> dict[str, Any]:
    """Numbers back into their ranges: Ray's steps of a fifth leave them."""
    found = dict(values)
    for key, entry in space.items():
        if isinstance(entry, Range):
            found[key] = min(max(found[key], entry.low), entry.high)
    return found


def searcher(kind: str, space: Space, first: list[dict[str, Any]], seed: int, latency: bool, at_once: int) -> Any:
    """``random`` or ``optuna`` (TPE; two objectives where latency counts).

    Args:
        at_once: trials begun and not ended; 0 begins all, which then share the machine's time: a population.

    Raises:
        ImportError: optuna is not installed.
    """
    seed %= 2**32  # the greatest that numpy takes is below
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
