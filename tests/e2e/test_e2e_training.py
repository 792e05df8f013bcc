"""The commands of the README, as processes: DeepSpeed's launcher with one and two ranks, plain Python, the console script."""

import json
import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from tiny import TINY

from bikd_fast.inference.run import evaluate_run
from bikd_fast.training.place import free_port

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
FILES = ("detector.safetensors", "log.jsonl", "predictions.npz")


def call(*words, expect=0, **environment):
    env = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run([str(w) for w in words], cwd=ROOT, env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == expect, done.stdout[-3000:] + done.stderr[-3000:]
    return done


def two_at_a_time(*commands, **more):
    """What each says; two at a time, because most of a small run is one core that imports."""
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda words: call(*words, **more), commands))


def options(root, output, *extra, categories=("stripes",), steps=6):
    return [
        *TINY, "--data.format", "mvtec", "--data.root", root, "--data.category", *categories, "--training.steps", steps,
        "--training.precision", "fp32", "--training.log_every", 1, "--output", output, *extra,
    ]  # fmt: skip


def losses(run):
    return [json.loads(line)["loss"] for line in (run / "log.jsonl").read_text().splitlines()]


def launch(ranks):
    return [BIN / "deepspeed", "--num_accelerators", ranks, "--master_port", free_port(), "bikd_fast/train.py"]


def test_two_ranks_see_what_one_sees(tiny_mvtec, tmp_path):
    """2 processes with batch 8 each and 1 process with batch 16: the same loss to 1e-5 over 20 steps in fp32.

    And the two measure their detector together as one process does, to the last bit.
    """
    extra = ("--training.batch_size", 16, "--training.forward_only", 0.1)
    two_at_a_time(
        [*launch(2), *options(tiny_mvtec, tmp_path / "two", *extra, steps=20)],
        [*launch(1), *options(tiny_mvtec, tmp_path / "one", *extra, steps=20)],
    )
    two, one = losses(tmp_path / "two"), losses(tmp_path / "one")
    assert len(one) == len(two) == 20 and len(set(one)) == 20
    assert all(math.isclose(a, b, rel_tol=1e-5) for a, b in zip(one, two)), list(zip(one, two))
    run = tmp_path / "two"
    shared, kept = (run / "metrics.json").read_text(), np.load(run / "predictions.npz")
    kept = {name: kept[name] for name in kept.files}
    assert len(list((run / "heatmaps").glob("*.jpg"))) == len(kept["score"]) == 6
    evaluate_run(run, report=False)
    alone = np.load(run / "predictions.npz")
    assert (run / "metrics.json").read_text() == shared
    assert all(np.array_equal(kept[name], alone[name], equal_nan=kept[name].dtype.kind == "f") for name in alone.files)


def test_plain_python_trains_measures_and_reports(tiny_mvtec, tmp_path):
    run = tmp_path / "run"
    done = call(sys.executable, "bikd_fast/train.py", *options(tiny_mvtec, run, categories=("all",)))
    assert "stripes" in done.stdout and "dots" in done.stdout and "mean" in done.stdout
    for category in ("stripes", "dots"):
        assert all((run / category / name).is_file() for name in FILES)
        assert len(list((run / category / "heatmaps").glob("*.jpg"))) == 6
    metrics = json.loads((run / "metrics.json").read_text())
    assert set(metrics["categories"]) == {"stripes", "dots"}
    for entry in [*metrics["categories"].values(), metrics["mean"]]:
        for key in ("image_auroc", "image_ap", "image_f1max", "pixel_auroc", "pixel_ap", "pixel_f1max", "aupro"):
            assert 0 <= entry[key] <= 1
    assert (run / "report.html").stat().st_size < 10_000_000 and (run / "config.yaml").is_file()

    # measured again from the files alone, the numbers are the same; trained again from config.yaml, they are too
    two_at_a_time(
        [BIN / "bikd", "evaluate", run],
        [BIN / "bikd", "train", "--config", run / "config.yaml", "--output", tmp_path / "copy", "--report", "false"],
    )
    again = json.loads((run / "metrics.json").read_text())
    assert again["mean"] == metrics["mean"]
    copy = json.loads((tmp_path / "copy/metrics.json").read_text())
    assert copy["mean"] == metrics["mean"] and not (tmp_path / "copy/report.html").exists()


def test_one_detector_for_all_categories(tiny_mvtec, tmp_path):
    run = tmp_path / "run"
    call(BIN / "bikd", "train", *options(tiny_mvtec, run, "--model.shared", "true", categories=("all",)))
    assert (run / "detector.safetensors").is_file() and not (run / "dots/detector.safetensors").exists()
    assert len(losses(run)) == 12  # training.steps for each category
    assert set(json.loads((run / "metrics.json").read_text())["categories"]) == {"stripes", "dots"}


def test_a_deepspeed_configuration_is_honoured(tiny_mvtec, tmp_path):
    """Clipping to almost nothing leaves the student where it started: the loss does not fall as it does without."""
    user = tmp_path / "ds.json"
    user.write_text(json.dumps({"gradient_clipping": 1e-9, "optimizer": {"type": "SGD", "params": {"lr": 1.0}}}))
    train = [BIN / "bikd", "train"]
    two_at_a_time(
        [*train, *options(tiny_mvtec, tmp_path / "plain", "--report", "false", steps=30)],
        [*train, *options(tiny_mvtec, tmp_path / "held", "--deepspeed_config", user, "--report", "false", steps=30)],
    )
    assert (tmp_path / "held/detector.safetensors").is_file()
    plain, held = losses(tmp_path / "plain"), losses(tmp_path / "held")
    assert plain[-1] < 0.8 * plain[0] and held[-1] > 0.9 * held[0]


MISTAKES = [
    (["--data.format", "mvtec"], "data.root"),
    (["--data.format", "mvtec", "--data.root", "/nowhere"], "/nowhere"),
    (["--training.stepz", "3"], "stepz"),
    (["--model.teacher", "resnet99"], "resnet99"),
    (["--deepspeed_config", "/nowhere.json"], "/nowhere.json"),
]


def test_mistakes_get_one_clear_line(tiny_mvtec, tmp_path):
    commands = []
    for place, (words, _) in enumerate(MISTAKES):
        given = [] if "--data.format" in words else options(tiny_mvtec, tmp_path / f"run{place}")
        commands.append([BIN / "bikd", "train", *given, *words])
    for done, (_, said) in zip(two_at_a_time(*commands, expect=2), MISTAKES):
        assert said in done.stderr and "Traceback" not in done.stderr
