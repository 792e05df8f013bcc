"""Every configuration of configs/: it parses, it trains under the same loop, resumable to the bit, and leaves a whole run."""

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tiny import TINY, interrupted

from bikd_fast.arguments import parse_run, run_parser
from bikd_fast.config import ConfigError
from bikd_fast.config_checks import check
from bikd_fast.inference.run import evaluate_run
from bikd_fast.models.detector import Detector
from bikd_fast.training import distributed
from bikd_fast.training.run import train

CONFIGS = Path(__file__).parents[2] / "configs"
METHODS = ("stpm", "rd", "denoising", "relation", "dual", "inpainting")


@pytest.fixture(scope="module")
def ranks():
    yield distributed.start()
    distributed.stop()


def settings(name, root, output, *extra):
    data = ["--data.format", "mvtec", "--data.root", str(root), "--data.category", "stripes", "--output", str(output)]
    quick = ["--training.precision", "fp32", "--training.steps", "5", "--model.teacher", "test_efficientnet", "--report", "false"]
    return parse_run(run_parser("test", ""), ["--config", str(CONFIGS / f"{name}.yaml"), *TINY, *data, *quick, *extra])


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) or (a[k].isnan() & b[k].isnan()).all() for k in a)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda p: p.stem)
def test_every_configuration_can_work(path):
    check(parse_run(run_parser("test", ""), ["--config", str(path)]))


def test_every_option_says_what_it_does():
    assert [action.dest for action in run_parser("test", "")._actions if not action.help] == []


@pytest.mark.parametrize("mistyped", ["trainin.steps", "training.stepz", "steps"])
@pytest.mark.parametrize("by_file", [False, True], ids=["option", "file"])
def test_a_mistyped_setting_is_told_names_like_it_and_no_list_of_all(mistyped, by_file, tmp_path, capsys):
    (tmp_path / "job.yaml").write_text(yaml.safe_dump({mistyped: 3}))
    with pytest.raises(SystemExit):
        parse_run(run_parser("test", ""), ["--config", str(tmp_path / "job.yaml")] if by_file else [f"--{mistyped}", "3"])
    told = capsys.readouterr().err
    assert re.search(rf"{mistyped.split('.')[-1]}\b.*Close names: .*\btraining\.steps\b", told) and len(told.splitlines()) <= 3


@pytest.mark.parametrize("name", METHODS)
def test_stopped_and_resumed_it_ends_as_if_undisturbed(tiny_mvtec, tmp_path, ranks, name):
    whole = train(settings(name, tiny_mvtec, tmp_path / "whole"), ranks)
    options = ("--training.checkpoint_seconds", "1e-9")
    with interrupted(before=3):
        train(settings(name, tiny_mvtec, tmp_path / "cut", *options), ranks)
    resumed = train(settings(name, tiny_mvtec, tmp_path / "cut", *options), ranks)
    assert same(load_file(whole / "detector.safetensors"), load_file(resumed / "detector.safetensors"))
    assert json.loads((whole / "training.json").read_text())["seconds"] > 0
    assert json.loads((resumed / "training.json").read_text())["seconds"] is None  # only a part of it was timed


@pytest.mark.parametrize("name", METHODS)
def test_the_loss_falls_and_the_teacher_stays(tiny_mvtec, tmp_path, ranks, name):
    extra = ("--training.steps", "40", "--training.log_every", "5", "--training.lr_student", "3e-3")
    run = train(settings(name, tiny_mvtec, tmp_path, *extra), ranks)
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert rows[-1]["forward"] < 0.8 * rows[0]["forward"]
    assert rows[-1]["held_out_normal"] < rows[0]["held_out_normal"] and rows[-1]["held_out_drift"] == 0
    assert "backward" not in rows[-1]


def test_a_vision_transformer_teaches_three_levels_of_one_stride(tiny_mvtec, tmp_path, ranks):
    config = settings("vit", tiny_mvtec, tmp_path, "--model.teacher", "test_vit", "--model.weights", "random")
    detector = Detector.load(train(config, ranks))
    assert detector.backbone.strides == (16, 16, 16)
    assert evaluate_run(tmp_path, report=False)["categories"]["stripes"]["diagnostics"]["normal"] > 0


def test_the_memory_needs_no_training_and_is_the_same_again(tiny_mvtec, tmp_path, ranks, capsys):
    runs = [train(settings("bank", tiny_mvtec, tmp_path / n, "--seed", s), ranks) for n, s in (("a", "0"), ("b", "0"), ("c", "1"))]
    first, again, other = (load_file(run / "detector.safetensors") for run in runs)
    assert same(first, again) and not same(first, other)
    metrics = evaluate_run(runs[0], report=False)["categories"]["stripes"]
    assert f"threshold of stripes: {metrics['threshold']['promise']}" in capsys.readouterr().err and not metrics["threshold"]["met"]
    assert metrics["image_auroc"] > 0.9 and metrics["pixel_auroc"] > 0.9  # red spots on grey stripes
    assert metrics["training"]["seconds"] > 0 and metrics["diagnostics"] == {}
    assert Detector.load(runs[0]).threshold.isfinite()


def test_a_whole_run_records_diagnostics_beside_its_metrics(tiny_mvtec, tmp_path, ranks):
    run = train(settings("bikd", tiny_mvtec, tmp_path, "--training.lr_student", "1e-2", "--training.lr_teacher", "1e-3"), ranks)
    evaluate_run(run, report=False)
    found = json.loads((run / "metrics.json").read_text())["categories"]["stripes"]
    for seen in (found["diagnostics"], found["training"]["diagnostics"]["simulated"]):
        assert {"normal", "defect", "normal_backbone", "defect_backbone", "drift"} <= seen.keys()
    assert found["diagnostics"]["drift"] > 0
    assert "defect" not in found["training"]["diagnostics"]["held_out"]


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("dual", ("--model.head", "true"), r"model\.student: dual .*--model\.head false"),
        ("relation", ("--model.mahalanobis", "true"), r"model\.student: relation .*--model\.mahalanobis false"),
        ("rd", ("--model.adapter", "true"), r"objective\.over: map .*--model\.adapter false"),
        ("bank", ("--map.calibrate_channels", "true"), r"map\.calibrate_channels"),
        ("inpainting", ("--objective.forward_corrupt", "0.5"), "forward_corrupt 0"),
    ],
)
def test_what_does_not_go_together_is_refused(tiny_mvtec, tmp_path, name, options, said):
    with pytest.raises(ConfigError, match=said):
        check(settings(name, tiny_mvtec, tmp_path, *options))
