"""Jobs that other launchers start, known by what they leave in the environment; and mistakes that every rank makes."""

import json

import pytest
from jobs import BIN, end, options, start

from bikd_fast.training.place import free_port

pytestmark = pytest.mark.e2e
NAMES = {
    "slurm": ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_NTASKS_PER_NODE"),
    "mpi": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
}


@pytest.mark.parametrize("launcher", NAMES)
def test_ranks_find_each_other_by_what_the_launcher_says(launcher, tiny_mvtec, tmp_path):
    """As `srun python bikd_fast/train.py` and `mpirun python bikd_fast/train.py` start them: no variable of ours is set."""
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    words = ["python", "bikd_fast/train.py", *options(tiny_mvtec, tmp_path / "run", "--data.holdout", 0, steps=2)]
    logs = [tmp_path / f"log{rank}" for rank in range(2)]
    jobs = [
        start(words, logs[rank], **meeting, **dict(zip(NAMES[launcher], map(str, (rank, 2, rank, 2))))) for rank in range(2)
    ]
    try:
        assert [job.wait(150) for job in jobs] == [0, 0], "".join(log.read_text()[-2000:] for log in logs)
    finally:
        for job in jobs:
            end(job)
    told = json.loads((tmp_path / "run/environment.json").read_text())
    assert told["ranks"] == 2 and not told["side_by_side"] and (tmp_path / "run/DONE").is_file()
    assert "step     2/2" in logs[0].read_text() and "2/2" not in logs[1].read_text()


def test_torchrun_starts_several_small_trainings(tiny_mvtec, tmp_path):
    """More ranks than there are devices, each with categories of its own."""
    words = [*options(tiny_mvtec, tmp_path / "run", "--training.parallel", "categories", steps=2), "--data.category", "all"]
    log = tmp_path / "log"
    job = start([BIN / "torchrun", "--nproc_per_node", 2, "--master_port", free_port(), "bikd_fast/train.py", *words], log)
    try:
        assert job.wait(150) == 0, log.read_text()[-3000:]
    finally:
        end(job)
    assert json.loads((tmp_path / "run/environment.json").read_text())["side_by_side"]
    assert set(json.loads((tmp_path / "run/metrics.json").read_text())["categories"]) == {"stripes", "dots"}


def test_a_mistake_of_all_ranks_is_said_once(tiny_mvtec, tmp_path):
    log = tmp_path / "log"
    launch = [BIN / "deepspeed", "--num_accelerators", 2, "--master_port", free_port(), "bikd_fast/train.py"]
    job = start([*launch, *options("/nowhere", tmp_path / "run")], log)
    try:
        assert job.wait(100) not in (0, None)
    finally:
        end(job)
    said = [line for line in log.read_text().splitlines() if line.startswith("error:")]
    assert len(said) == 1 and "/nowhere" in said[0] and "Traceback" not in log.read_text(), log.read_text()[-3000:]
