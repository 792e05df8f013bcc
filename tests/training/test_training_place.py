"""Whose variables say who a process is, where several launchers have left theirs."""

import os

import pytest

from bikd_fast.training import place

SHELL = {"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}  # as sbatch leaves them
OURS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_SIZE")


def mpi(rank, size, local, locals_):
    names = ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE")
    return {f"OMPI_COMM_WORLD_{name}": value for name, value in zip(names, (rank, size, local, locals_))}


CASES = {
    "srun": (
        {"SLURM_PROCID": "5", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1", "SLURM_NTASKS_PER_NODE": "4"},
        ("5", "8", "1", "4"),
    ),
    "srun -n 5 -N 2": (
        {**SHELL, "SLURM_PROCID": "4", "SLURM_NTASKS": "5", "SLURM_LOCALID": "1", "SLURM_NODEID": "1"}
        | {"SLURM_STEP_TASKS_PER_NODE": "3,2"},
        ("4", "5", "1", "2"),
    ),
    "srun with PMI2": (
        {"SLURM_PROCID": "5", "SLURM_NTASKS": "16", "SLURM_LOCALID": "5", "SLURM_NODEID": "0"}
        | {"SLURM_STEP_TASKS_PER_NODE": "8(x2)", "PMI_RANK": "5", "PMI_SIZE": "16"},
        ("5", "16", "5", "8"),
    ),
    "mpirun in a shell of sbatch": (SHELL | mpi("3", "4", "1", "2"), ("3", "4", "1", "2")),
    "mpirun there, its first": (SHELL | mpi("0", "4", "0", "2"), ("0", "4", "0", "2")),
    "mpiexec there": (
        SHELL | {"PMI_RANK": "3", "PMI_SIZE": "4", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"},
        ("3", "4", "1", "2"),
    ),
    "mpiexec that tells nothing local": (SHELL | {"PMI_RANK": "3", "PMI_SIZE": "4"}, ("3", "4", None, None)),
    "torchrun there": (
        SHELL | {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"},
        ("1", "2", "1", "2"),
    ),
    "srun, two set by hand": ({**SHELL, "SLURM_LOCALID": "2", "RANK": "0", "WORLD_SIZE": "4"}, ("0", "4", "2", None)),
    "half of them": ({"SLURM_PROCID": "3", "OMPI_COMM_WORLD_SIZE": "4"}, (None, None, None, None)),
}


@pytest.mark.parametrize("case", CASES)
def test_all_of_a_place_is_of_the_innermost_launcher(case, monkeypatch):
    variables, expected = CASES[case]
    monkeypatch.setattr(os, "environ", {"MASTER_ADDR": "node1", **variables})
    place.translate()
    assert tuple(os.environ.get(name) for name in OURS) == expected


def test_without_a_place_to_meet_it_is_a_job_of_one(monkeypatch):
    monkeypatch.setattr(os, "environ", dict(SHELL))
    place.translate()
    assert os.environ == SHELL


@pytest.mark.parametrize(("text", "tasks"), [("8(x2),3", [8, 8, 3]), ("3,2", [3, 2]), ("4", [4]), ("", []), ("2(x", [])])
def test_tasks_of_every_node(text, tasks):
    assert place._tasks_per_node(text) == tasks
