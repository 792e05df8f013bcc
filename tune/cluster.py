"""Joining or starting a Ray cluster, and sending it this code."""

from __future__ import annotations

import logging
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bikd_fast.errors import UserError

QUIET = {
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "RAY_memory_monitor_refresh_ms": "0",  # no trial is killed because something else on the machine takes memory
}


def connect(address: str | None, gpus_per_trial: float | None) -> dict[str, float]:
    """Join the cluster at ``address``, else at RAY_ADDRESS, else start one on this machine; returns its CPUs and GPUs.

    Workers run the bikd_fast and bikd_kernels of this process: they are sent along, wherever they lie here. What these need (torch,
    deepspeed, ...) has to be installed on the workers.

    Raises:
        UserError: there is no cluster at the address.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    where = address or os.environ.get("RAY_ADDRESS") or "local"
    import ray

    options: dict[str, Any] = {}
    if where == "local":
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")
        options = {"num_cpus": len(os.sched_getaffinity(0)), "include_dashboard": False, "object_store_memory": 200 * 2**20}
    try:
        ray.init(
            address=where,
            runtime_env={"py_modules": packages(), "env_vars": {"OMP_WAIT_POLICY": "passive"}},
            log_to_driver=bool(os.environ.get("BIKD_SEARCH_LOGS")),
            logging_level=logging.ERROR,
            **options,
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UserError(f"address: no Ray cluster at {where}: {str(error).strip().splitlines()[0]}") from error
    found = ray.cluster_resources()
    if gpus_per_trial and found.get("GPU", 0) < gpus_per_trial:
        raise UserError(f"gpus-per-trial: {gpus_per_trial} asked for, and the cluster has {found.get('GPU', 0):g}.")
    print(f"Ray cluster: {len(ray.nodes())} nodes, {found.get('CPU', 0):g} CPUs, {found.get('GPU', 0):g} GPUs", file=sys.stderr)
    return {"CPU": found.get("CPU", 0), "GPU": found.get("GPU", 0)}


def packages() -> list[str]:
    """Folders of the packages that workers need of us."""
    folders = []
    for name in ("bikd_fast", "bikd_kernels"):
        spec = find_spec(name)
        assert spec is not None and spec.origin is not None
        folders.append(str(Path(spec.origin).parent))
    return folders


def shares(cluster: dict[str, float], gpus: float | None, ranks: int) -> tuple[dict[str, float], float, int]:
    """(what a trial's own process takes, GPUs a trial, how many trials run at once).

    A trial of several ranks takes next to nothing itself (Ray wants something): its worker group does.

    Raises:
        UserError: one trial does not fit into the cluster.
    """
    gpus = (float(ranks) if cluster["GPU"] else 0.0) if gpus is None else gpus
    fits = [int(cluster["CPU"] // ranks)] + ([int(cluster["GPU"] / gpus + 1e-9)] if gpus else [])
    if min(fits) < 1:
        raise UserError(f"ranks-per-trial: a trial of {ranks} processes and {gpus:g} GPUs does not fit into {cluster}.")
    own = {"CPU": 1.0, "GPU": gpus} if ranks == 1 else {"CPU": 0.01}
    return own, gpus, min(fits)
