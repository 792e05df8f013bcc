"""The two things that run on the cluster: the search itself, and the measurement of its gain."""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ray
from ray import tune

from bikd_fast.errors import UserError
from bikd_fast.search.settings import apply
from bikd_fast.search.trial import plan_of
from bikd_fast.search.worker import METRIC, Worker, resource
from tune import cluster
from tune import space as spaces
from tune.records import Recorder, Row, add, best_of, best_values, gain_rows, read_rows
from tune.schedule import PARTS, scheduler, searcher
from tune.state import GAIN, NEW_SEED, RESULTS, Options, keep_space, kept, read_settings, remember

RETRIES = 3  # of a trial whose worker was lost; a trial that fails by itself is not tried again


def search(options: Options, base: dict[str, Any], resumed: bool) -> bool:
    """Run or take up the trials; True when all came to their end."""
    folder = Path(options.output).resolve()
    record = folder / RESULTS
    begun = bool(read_rows(record))
    space, maps = spaces.load(Path(options.space) if options.space else None, options.latency)
    given = [] if begun else [read_settings(path) for path in options.first]
    first = spaces.first_points(space, base, given)[: options.trials]
    if begun:
        was = kept(folder).get("folder", str(folder))
        if options.storage is None and was != str(folder):
            raise UserError(f"{folder}: the search was begun as {was}, and Ray goes on nowhere else. Move it back there.")
        _found_again("/".join(_place(options, folder, "trials")))
    began, found = time.time(), cluster.connect(options.address, options.gpus_per_trial)
    own, gpus, at_once = cluster.shares(found, options.gpus_per_trial, options.ranks_per_trial)
    if resumed:
        remember(options, base, taken_up=True)
    else:
        here = f"{folder.name}-{uuid.uuid4().hex[:8]}"  # in a storage that other searches use too
        told = {key: str(entry) for key, entry in space.items()}
        keep_space(options)
        remember(options, base, space=told, default=first[0], seconds=0.0, name=here, folder=str(folder))
    storage, name = _place(options, folder, "trials")
    config = apply(base, {})
    parts = PARTS if options.scheduler == "pbt" else 0
    plan = plan_of(config, config.seed, options.categories, parts=parts)
    job = _job(options, base, storage, name, gpus, grid=maps, order=config.seed, most=options.categories, parts=parts)
    try:
        trainable = tune.with_resources(tune.with_parameters(Worker, job=job), own)
        fit(
            trainable,
            storage,
            name,
            record,
            lambda: tune.TuneConfig(
                search_alg=searcher(options.searcher, space, first, config.seed, options.latency, 0 if parts else at_once),
                scheduler=scheduler(options.scheduler, space, resource(len(plan)), record, first[0]),
                num_samples=options.trials,
                reuse_actors=options.ranks_per_trial == 1,
                trial_dirname_creator=_short,
            ),
            space=spaces.to_ray(space) if options.searcher == "random" else {},
        )
        rows = read_rows(record)
        done = _ended(rows, options.trials)
        mixed = max(
            (row for row in rows if row.result.get("mixed") and row.status == "finished"), key=lambda r: r.score, default=None
        )
        clean = best_of(rows)
        if done and mixed is not None and (clean is None or clean.rung < mixed.rung or clean.score < mixed.score):
            # what a population came to is trained once more, from scratch, as `bikd train` will
            _fixed(trainable, storage, f"{name}-again", record, [mixed.values], at_once, reuse=False)
            rows = read_rows(record)
            done = _ended(rows, options.trials + 1)
        if done:
            _tidy(job["work"], keep=best_of(rows))
        return done
    finally:
        before = float(kept(Path(options.output)).get("seconds", 0.0))
        remember(options, base, seconds=before + time.time() - began, slots=at_once, rungs=plan, cluster=found)
        ray.shutdown()


def gain(options: Options, base: dict[str, Any], best: Row) -> bool:
    """Train the best and the job's own settings anew with seeds that the search has not seen; True when all came to their end."""
    folder = Path(options.output).resolve()
    values = best_values(base, best)
    found = cluster.connect(options.address, options.gpus_per_trial)
    own, gpus, at_once = cluster.shares(found, options.gpus_per_trial, options.ranks_per_trial)
    storage, name = _place(options, folder, f"gain-{best.trial}")
    job = _job(options, base, storage, name, gpus, whole=True, test=True)
    points = [
        {"_who": who, "_of": best.trial, **drawn, "seed": NEW_SEED + base["seed"] + i}
        for i in range(options.gain_seeds)
        for who, drawn in (("default", {}), ("best", values))
    ]
    try:
        trainable = tune.with_resources(tune.with_parameters(Worker, job=job), own)
        _fixed(trainable, storage, name, folder / GAIN, points, at_once, reuse=options.ranks_per_trial == 1)
        done = _ended(gain_rows(folder / GAIN, best), len(points))
        if done:
            _tidy(job["work"])
        return done
    finally:
        ray.shutdown()


def _found_again(place: str) -> None:
    """Refuse to begin anew what was begun already.

    Raises:
        UserError: Ray has left nothing there that could go on.
    """
    if not tune.Tuner.can_restore(place):
        raise UserError(f"{place}: holds nothing of this search, which cannot go on without. Restore it, or search anew.")


def _ended(rows: list[Row], count: int) -> bool:
    """Whether there are so many trials and all are at their end."""
    return len(rows) >= count and all(row.status != "unfinished" for row in rows)


def _fixed(trainable: Any, storage: str, name: str, record: Path, points: list, at_once: int, reuse: bool) -> None:
    """Run given settings to their end, all of them."""
    plan: dict[str, Any] = dict(metric=METRIC, mode="max", max_concurrent_trials=at_once, reuse_actors=reuse)
    space = {"point": tune.grid_search(points)}
    fit(trainable, storage, name, record, lambda: tune.TuneConfig(**plan, trial_dirname_creator=_short), space)


def _short(trial: Any) -> str:
    return trial.trial_id


def fit(
    trainable: Any, storage: str, name: str, record: Path, make: Callable[[], tune.TuneConfig], space: Mapping[str, Any]
) -> None:
    """Run the trials of an experiment, or what is left of them where it was begun before."""
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "2")  # between two snapshots that a killed driver is taken up from
    path = f"{storage}/{name}"
    if record.is_file() and tune.Tuner.can_restore(path):
        tuner = tune.Tuner.restore(path, trainable, resume_unfinished=True, resume_errored=True, param_space=dict(space))
        there: Any = tuner._local_tuner
        for part in (*there._run_config.callbacks, there._tune_config.scheduler):
            if hasattr(part, "record"):  # Ray kept it as it was then; with --storage the folder may have been moved
                part.record = str(record)
    else:
        tuner = tune.Tuner(
            trainable,
            param_space=dict(space),
            tune_config=make(),
            run_config=tune.RunConfig(
                name=name,
                storage_path=storage,
                verbose=0,
                callbacks=[Recorder(record)],
                failure_config=tune.FailureConfig(max_failures=RETRIES),
                checkpoint_config=tune.CheckpointConfig(num_to_keep=None, checkpoint_frequency=1, checkpoint_at_end=False),
            ),
        )
    grid = tuner.fit()
    analysis = grid._experiment_analysis
    known = {trial.trial_id for trial in analysis.trials or []} if analysis is not None else set()
    if known:  # a trial that began after the last snapshot before a kill: Ray has forgotten it and drawn another in its place
        for row in read_rows(record):
            if row.status == "unfinished" and row.trial not in known:
                add(record, {"what": "gone", "trial": row.trial})


def _tidy(work: str | None, keep: Row | None = None) -> None:
    """Detectors of trials that are over take room; those of the best stay."""
    for folder in Path(work).glob("*") if work else []:
        if keep is None or folder.name != keep.trial:
            shutil.rmtree(folder, ignore_errors=True)


def _place(options: Options, folder: Path, what: str) -> tuple[str, str]:
    if options.storage is None:
        return str(folder / "ray"), what
    return options.storage.rstrip("/"), f"{kept(folder).get('name', folder.name)}-{what}"


def _job(options: Options, base: Mapping[str, Any], storage: str, name: str, gpus: float, **more: Any) -> dict[str, Any]:
    return {
        "base": dict(base),
        "grid": {},
        "order": 0,
        "most": 0,
        "whole": False,
        "parts": 0,
        "labels": options.validation,
        "test": False,
        "latency": options.latency,
        "work": None if "://" in storage else f"{storage}/{name}-files",
        "ranks": options.ranks_per_trial,
        "gpus": gpus,
        **more,
    }
