"""The folder of a run: whose it is, and what starting anew forgets."""

import fcntl
import subprocess
import sys
from dataclasses import replace

import pytest
from locked import ASKING, another
from tiny import one_category

from bikd_fast.config import ConfigError, TrainingConfig
from bikd_fast.inference.find import find_detector
from bikd_fast.models.detector import DetectorError
from bikd_fast.training.folder import LEFT, LOCK, alone, claim
from bikd_fast.training.user_config import outcome


def test_starting_anew_leaves_no_detector_and_no_figure_of_the_run_before(tmp_path):
    """It may have had other categories: whoever asks for one of them must not be answered by what was trained then."""
    run, config = tmp_path / "run", one_category("data", "unused")
    claim(run, config)
    below = [run / "bolts", run / "nuts", run / "kept"]
    for folder in (run, *below):
        (folder / "checkpoints").mkdir(parents=True)
        for name in (*LEFT, "checkpoints/step-00000004.safetensors", "of-the-user.csv"):
            (folder / name).write_text("old")
    (run / "kept" / ".settings").write_text("a run of its own")
    assert find_detector(run, "bolts") == run / "bolts"
    claim(run, replace(config, seed=5, resume="never"))
    with pytest.raises(DetectorError, match="no detector of category 'bolts'"):
        find_detector(run, "bolts")
    remaining = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    own = {"config.yaml", ".settings", *(f"kept/{name}" for name in (*LEFT, ".settings", "checkpoints/step-00000004.safetensors"))}
    assert remaining == own | {f"{folder}of-the-user.csv" for folder in ("", "bolts/", "nuts/", "kept/")}


def test_a_slash_at_the_end_of_a_folder_makes_no_other_run(tmp_path):
    claim(tmp_path / "run", one_category("data", "unused"))
    claim(tmp_path / "run", one_category("data/", "unused"))
    with pytest.raises(ConfigError, match="holds a run of other settings"):
        claim(tmp_path / "run", one_category("data2", "unused"))


def test_two_processes_do_not_train_in_one_folder(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / LOCK).write_text("process 7 on node1")
    with another(run / LOCK):
        with pytest.raises(ConfigError, match=rf"another process \(process 7 on node1\) trains in {run}\. Wait"), alone(run):
            pass
        with alone(tmp_path / "other"):
            pass
    with alone(run):  # killed: at once
        asked = subprocess.run([sys.executable, "-c", ASKING, str(run / LOCK)], capture_output=True, check=False)
        assert b"BlockingIOError" in asked.stderr or b"PermissionError" in asked.stderr
    with another(run / LOCK):  # given back
        pass


def test_a_disk_without_locks_is_trained_on_all_the_same(tmp_path, monkeypatch):
    def refused(*words):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", refused)
    with alone(tmp_path / "run"):
        pass


def test_a_batch_that_goes_by_the_number_of_ranks_is_told_where_the_run_is_gone_on_with(tmp_path):
    (tmp_path / "ds.json").write_text('{"train_micro_batch_size_per_gpu": 4}')
    config = one_category("data/", "unused", "--deepspeed_config", str(tmp_path / "ds.json"))
    claim(tmp_path / "run", config)
    other = replace(config, training=replace(config.training, batch_size=8))
    with pytest.raises(ConfigError, match=r"size was 4 and is 8 \(train_micro_batch.*give train_batch_size instead\)"):
        claim(tmp_path / "run", other)


def test_what_of_the_deepspeed_file_makes_another_run():
    training = TrainingConfig()
    plain = outcome({}, training)
    for user in (
        {"zero_optimization": {"stage": 2, "overlap_comm": True}, "csv_monitor": {"enabled": True}, "fp16": {"enabled": False}},
        {"optimizer": {"type": "AdamW", "params": {"lr": training.lr_student}}, "gradient_clipping": 1},
    ):
        assert outcome(user, training) == plain
    for user in ({"fp16": {"enabled": True}}, {"fp16": {"enabled": True, "loss_scale": 8}}, {"optimizer": {"params": {"eps": 1}}}):
        assert outcome(user, training) != plain
