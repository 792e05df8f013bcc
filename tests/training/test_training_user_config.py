"""The user's DeepSpeed JSON against the run's own settings, and optimizers by DeepSpeed's names."""

from pathlib import Path

import pytest
import torch

from bikd_fast.config import ConfigError, TrainingConfig
from bikd_fast.training import engine as engines
from bikd_fast.training import optimizers, user_config
from bikd_fast.training.bad_steps import BadSteps, guard
from bikd_fast.training.distributed import Ranks

ALONE = Ranks(0, 1, torch.device("cpu"))
SHIPPED = sorted((Path(__file__).parents[2] / "configs/deepspeed").glob("*.json"))


def settled(user, world=2, **training):
    done = user_config.settle(TrainingConfig(**training), user, world)
    assert user_config.settle(done, user, world) == done  # settling twice changes nothing
    return done


@pytest.mark.parametrize(
    ("user", "training", "batch", "accumulation"),
    [
        ({}, {}, TrainingConfig().batch_size, 1),
        ({}, {"batch_size": 32, "accumulation": 4}, 32, 4),
        ({"train_batch_size": 64}, {}, 64, 1),
        ({"train_micro_batch_size_per_gpu": 3}, {}, 6, 1),
        ({"train_micro_batch_size_per_gpu": 3, "gradient_accumulation_steps": 2}, {}, 12, 2),
        ({"train_micro_batch_size_per_gpu": 4, "train_batch_size": 32}, {}, 32, 4),
        ({"train_micro_batch_size_per_gpu": 4}, {"batch_size": 32}, 32, 4),
        ({"gradient_accumulation_steps": 2}, {"batch_size": 32}, 32, 2),
        ({"train_batch_size": 32}, {"batch_size": 32}, 32, 1),
    ],
)
def test_batch_and_accumulation_of_the_json_win(user, training, batch, accumulation):
    done = settled(user, **training)
    assert (done.batch_size, done.accumulation) == (batch, accumulation)
    config = engines.engine_config(done, Ranks(0, 2, torch.device("cpu")), torch.float32, user)
    assert config["timers"] == {"throughput": {"enabled": False}}  # it waits for the device at every step
    assert config["train_batch_size"] == batch == 2 * accumulation * config["train_micro_batch_size_per_gpu"]


def test_an_autocast_that_is_switched_off_is_float32_for_all_the_trainer_does():
    assert settled(user_config.read(str(SHIPPED[0].with_name("cpu.json")))).precision == "fp32"
    assert settled({}).precision == settled({"torch_autocast": {"enabled": True}}).precision == "auto"


@pytest.mark.parametrize(
    ("user", "training", "keys"),
    [
        ({"train_batch_size": 64}, {"batch_size": 32}, ("training.batch_size", "train_batch_size")),
        ({"gradient_accumulation_steps": 2}, {"accumulation": 4}, ("training.accumulation", "gradient_accumulation_steps")),
        (
            {"train_micro_batch_size_per_gpu": 5, "train_batch_size": 32},
            {},
            ("train_batch_size", "train_micro_batch_size_per_gpu"),
        ),
        ({"train_batch_size": 7}, {}, ("training.batch_size: 7", "2 ranks")),
        ({"train_batch_size": "auto"}, {}, ("train_batch_size", "'auto'")),
        ({"optimizer": {"params": {"lr": 0.1}}}, {"lr_student": 0.2}, ("training.lr_student", "optimizer.params.lr")),
        ({"bf16": {"enabled": True}}, {"precision": "fp32"}, ("training.precision", "bf16")),
        ({"torch_autocast": {"enabled": False}}, {"precision": "bf16"}, ("training.precision", "torch_autocast")),
        ({"bf16": {"enabled": True}, "fp16": {"enabled": True}}, {}, ("fp16", "bf16")),
        ({"torch_autocast": {"enabled": True, "dtype": "float16"}}, {}, ("torch_autocast.dtype", "stage 1")),
        ({"fp16": {"enabled": True}, "zero_optimization": {"stage": 0}}, {}, ("fp16.enabled", "stage")),
        ({"scheduler": {"type": "WarmupLR"}}, {"scale_rates": "linear"}, ("training.scale_rates is linear", "scheduler")),
        ({"scheduler": {"type": "WarmupLR"}}, {"warmup": 0.1}, ("training.warmup is 0.1", "scheduler")),
        ({"scheduler": {"type": "WarmupLR"}, "optimizer": {"params": {"lr": 0}}}, {}, ("optimizer.params.lr: 0", "above 0")),
        ({"scheduler": {"type": "WarmupLR"}}, {"lr_student": 0.0}, ("training.lr_student: 0", "scheduler")),
    ],
)
def test_contradictions_name_both_keys(user, training, keys):
    with pytest.raises(ConfigError) as caught:
        settled(user, **training)
    assert all(key in str(caught.value) for key in keys), caught.value


def test_autocast_to_float16_needs_a_gpu():
    user = {"torch_autocast": {"enabled": True, "dtype": "float16"}, "zero_optimization": {"stage": 2}}
    with pytest.raises(ConfigError, match=r"torch_autocast\.dtype float16 needs a GPU.*bfloat16"):
        user_config.settle(TrainingConfig(), user, 1, "cpu")
    assert user_config.settle(TrainingConfig(), user, 1, "cuda") == TrainingConfig()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"optimizer": 3}', "optimizer: 3 is not a JSON object"),
        ('{"optimizer": {"params": null}}', r"optimizer\.params: None is not a JSON object"),
        ('{"bf16": true}', "bf16: True is not a JSON object"),
        ('{"optimizer": {"params": {"lr": "0.1"}}}', r"optimizer\.params\.lr: '0\.1' is not a number"),
        ('{"optimizer": {"params": {"weight_decay": -1}}}', r"weight_decay: -1 is not a number of at least 0"),
        ('{"zero_optimization": {"stage": "two"}}', r"zero_optimization\.stage: 'two' is not 0, 1, 2 or 3"),
        ('{"train_batch_size": true}', "train_batch_size: True is not a positive whole number"),
        ("[]", "no JSON object"),
        ("{}".encode("utf-16"), "is not JSON in UTF-8"),
        (None, r"cannot be read \(Is a directory\)"),
    ],
)
def test_a_json_of_another_kind_is_told(tmp_path, content, said):
    file = tmp_path / "ds.json"
    if content is None:
        file.mkdir()
    else:
        file.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ConfigError, match=f"deepspeed_config: .*{said}"):
        settled(user_config.read(str(file)))


def test_betas_that_are_none_are_told():
    make = optimizers.factory({"optimizer": {"type": "AdamW", "params": {"betas": 3}}}, 1e-3, 0)
    with pytest.raises(ConfigError, match="optimizer AdamW"):
        make([{"params": [torch.nn.Parameter(torch.ones(1))]}])


def test_a_rate_of_the_json_and_one_of_0_contradict_each_other():
    with pytest.raises(ConfigError, match=r"training\.lr_student is 0\.0"):
        settled({"optimizer": {"params": {"lr": 0.01}}}, lr_student=0.0, lr_teacher=0.0)


def test_the_rate_of_the_json_keeps_the_teacher_at_its_share():
    done = settled({"optimizer": {"type": "AdamW", "params": {"lr": 0.01, "weight_decay": 0.5}}})
    assert done.lr_student == 0.01 and done.lr_teacher == pytest.approx(0.001) and done.weight_decay == 0.5


@pytest.mark.parametrize(("rule", "factor"), [("none", 1), ("linear", 16), ("sqrt", 4)])
def test_rates_grow_with_the_batch(rule, factor):
    assert user_config.rate_factor(TrainingConfig(batch_size=128, base_batch=8, scale_rates=rule)) == factor


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_shipped_configurations_settle_and_build_their_optimizer(path):
    user = user_config.read(str(path))
    done = settled(user, world=2)
    make = optimizers.factory(user, done.lr_student, engines.zero_stage(user))
    parameter = torch.nn.Parameter(torch.ones(4, 4))
    optimizer = make([{"params": [parameter]}])
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert not torch.equal(parameter, torch.ones(4, 4))


def test_nine_configurations_ship():
    assert {p.stem for p in SHIPPED} >= {"cpu", "one_gpu", "multi_gpu", "zero1", "zero2", "large_batch"}


@pytest.mark.parametrize("kind", ["Lamb", "LARS"])
def test_layer_norms_are_refused_where_layers_are_flattened(kind):
    with pytest.raises(ConfigError, match="stage 1"):
        optimizers.factory({"optimizer": {"type": kind}}, 1e-3, 1)


def test_an_unknown_optimizer_parameter_is_named():
    make = optimizers.factory({"optimizer": {"type": "SGD", "params": {"speed": 3}}}, 1e-3, 0)
    with pytest.raises(ConfigError, match="speed"):
        make([{"params": [torch.nn.Parameter(torch.ones(1))]}])


@pytest.mark.parametrize("kind", ["AdamW", "SGD", "Lamb"])
def test_a_flagged_step_changes_neither_weights_nor_state(kind):
    parameter = torch.nn.Parameter(torch.ones(3, 3))
    optimizer = optimizers.factory({"optimizer": {"type": kind}}, 0.1, 0)([{"params": [parameter]}])
    flags = BadSteps(ALONE, [], 3)
    guard(optimizer, flags)
    weights, steps = [], []
    for bad in (0, 1, 0):
        flags.flag.fill_(bad)
        parameter.grad = torch.full_like(parameter, torch.nan if bad else 1.0)
        optimizer.step()
        weights.append(parameter.detach().clone())
        steps.append(float(optimizer.state[parameter].get("step", 0) if optimizer.state else 0))
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[1], weights[2])
    assert steps[0] == steps[1] and torch.isfinite(weights[2]).all()


@pytest.mark.parametrize("length", [0.5, 4.0])
def test_a_long_gradient_is_cut_to_the_greatest_norm(length):
    parameters = [torch.nn.Parameter(torch.zeros(3, 2)), torch.nn.Parameter(torch.zeros(2))]
    optimizer = optimizers.factory({"optimizer": {"type": "SGD"}}, 1.0, 0)([{"params": parameters}])
    bad = BadSteps(ALONE, [], 3, clip=1.0)
    guard(optimizer, bad)
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, length / 8**0.5)
    bad.add(torch.zeros(()))
    bad.settle([p.grad for p in parameters])
    optimizer.step()
    moved = torch.cat([p.detach().flatten() for p in parameters]).norm()
    assert moved.item() == pytest.approx(min(length, 1.0), rel=1e-5)


@pytest.mark.parametrize(
    ("flags", "supported", "expected"),
    [
        ({"avx512f", "amx_bf16"}, True, torch.bfloat16),
        ({"avx512f", "avx512_bf16"}, True, torch.bfloat16),
        ({"avx512f"}, True, torch.float32),  # PyTorch says yes and emulates it
        ({"avx512_bf16"}, False, torch.float32),
        (set(), True, torch.float32),
    ],
)
def test_auto_takes_bf16_only_where_the_processor_multiplies_it(monkeypatch, flags, supported, expected):
    monkeypatch.setattr(engines, "_processor_flags", lambda: flags)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: supported, raising=False)
    assert engines.precision(TrainingConfig(), torch.device("cpu")) == expected
    assert engines.precision(TrainingConfig(precision="fp32"), torch.device("cpu")) == torch.float32


def test_flags_of_the_processor_are_whole_words(monkeypatch, tmp_path):
    info = tmp_path / "cpuinfo"
    monkeypatch.setattr(engines, "Path", lambda path: {"/proc/cpuinfo": info}[path])
    assert engines._processor_flags() == set()  # not on Linux: no such file
    info.write_text("processor\t: 0\nflags\t\t: fpu avx512_bf16 sse2\nbugs\t\t: spectre_v1\n\nflags\t\t: fpu avx512f\n")
    assert {"fpu", "avx512_bf16", "sse2", "avx512f"} <= engines._processor_flags()
    assert not {"amx_bf16", "bf16", "avx512"} & engines._processor_flags()
