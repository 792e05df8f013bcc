"""A trial over several processes: a Ray Train worker group, in which DeepSpeed trains as under its own launcher."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bikd_fast.config import RunConfig, to_dict
from bikd_fast.errors import UserError
from bikd_fast.files import write_text
from bikd_fast.search.settings import apply
from bikd_fast.search.trial import Progress, Rung, make
from bikd_fast.training import distributed


def advance(job: Mapping[str, Any], config: RunConfig, plan: list[Rung], folder: Path) -> dict[str, Any]:
    """:meth:`bikd_fast.search.trial.Trial.advance` on ``job["ranks"]`` processes; progress is kept in ``folder``.

    Raises:
        UserError: no folder that all processes see.
    """
    from ray.train import FailureConfig, ScalingConfig
    from ray.train import RunConfig as RayRun
    from ray.train.torch import TorchConfig, TorchTrainer

    if not job["work"]:
        raise UserError(
            "ranks-per-trial: several processes a trial need a folder that all see: give --storage a path, no bucket."
        )
    folder.mkdir(parents=True, exist_ok=True)
    gpus = job["gpus"] / job["ranks"]
    share = {"GPU": gpus} if gpus else {}
    given = {"job": dict(job), "config": to_dict(config), "plan": plan, "folder": str(folder)}
    trainer = TorchTrainer(
        _rank,
        train_loop_config=given,
        torch_config=TorchConfig(backend="nccl" if gpus >= 1 else "gloo"),
        scaling_config=ScalingConfig(num_workers=job["ranks"], use_gpu=bool(gpus), resources_per_worker={"CPU": 0.99, **share}),
        run_config=RayRun(name="group", storage_path=str(folder / "ray"), failure_config=FailureConfig(max_failures=3)),
    )
    trainer.fit()
    found = json.loads((folder / "result.json").read_text())
    if "wrong" in found:
        raise UserError(found["wrong"])
    return found


def _rank(given: dict[str, Any]) -> None:
    """What every process of the group does."""
    import ray.train as train

    context = train.get_context()
    os.environ |= {
        "RANK": str(context.get_world_rank()),
        "WORLD_SIZE": str(context.get_world_size()),
        "LOCAL_RANK": str(context.get_local_rank()),
        "LOCAL_SIZE": str(context.get_local_world_size()),
    }
    ranks = distributed.start()
    folder = Path(given["folder"])
    trial = make(given["job"], apply(given["config"], {}), [[tuple(p) for p in rung] for rung in given["plan"]], folder, ranks)  # type: ignore[misc]
    kept = folder / "progress.json"
    if kept.is_file():
        trial.progress = Progress(**json.loads(kept.read_text()))
    try:
        found = trial.advance()
    except (UserError, ValueError) as error:  # what is wrong with the settings is wrong again at a second attempt
        found = {"wrong": str(error)}
    if ranks.first:
        write_text(folder / "result.json", json.dumps(found))
        write_text(kept, json.dumps(asdict(trial.progress)))
    distributed.stop()
