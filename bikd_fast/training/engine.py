"""The DeepSpeed engine: its configuration, ours below the user's, and the optimizer's parameter groups."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bikd_fast.config import ConfigError, TrainingConfig
from bikd_fast.training.distributed import Ranks


def precision(training: TrainingConfig, device: torch.device) -> torch.dtype:
    """bfloat16 or float32; ``auto`` takes bf16 where the hardware multiplies it natively (otherwise it is emulated, slower)."""
    if training.precision != "auto":
        return torch.bfloat16 if training.precision == "bf16" else torch.float32
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = bool(getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)()) and _amx()
    return torch.bfloat16 if native else torch.float32


def _amx() -> bool:
    try:
        return "amx_bf16" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


def read_user_config(path: str | None) -> dict[str, Any]:
    """The user's DeepSpeed JSON.

    Raises:
        ConfigError: no such file, or not a JSON object.
    """
    if path is None:
        return {}
    try:
        found = json.loads(Path(path).read_text())
    except FileNotFoundError as error:
        raise ConfigError(f"deepspeed_config: no file {path}.") from error
    except json.JSONDecodeError as error:
        raise ConfigError(f"deepspeed_config: {path} is not JSON ({error}).") from error
    if not isinstance(found, dict):
        raise ConfigError(f"deepspeed_config: {path} holds no JSON object.")
    return found


def engine_config(training: TrainingConfig, ranks: Ranks, dtype: torch.dtype, user: dict[str, Any]) -> dict[str, Any]:
    """DeepSpeed's configuration: the user's keys where given, ours elsewhere; the global batch is fixed."""
    ours: dict[str, Any] = {
        "train_batch_size": training.batch_size,
        "gradient_accumulation_steps": training.accumulation,
        "train_micro_batch_size_per_gpu": training.batch_size // (ranks.world * training.accumulation),
        "zero_optimization": {"stage": 0},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 10**9,
    }
    if not any(user.get(key, {}).get("enabled") for key in ("fp16", "bf16", "torch_autocast")):
        ours["torch_autocast"] = {"enabled": dtype == torch.bfloat16, "dtype": "bfloat16"}
    return {**ours, **user}


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Groups named student/teacher x decayed/plain; norms and biases are not decayed."""
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        part = "teacher" if name.startswith("adapter.") else "student"
        groups.setdefault((part, parameter.ndim > 1), []).append(parameter)
    return [
        {"params": params, "part": part, "weight_decay": weight_decay if decayed else 0.0}
        for (part, decayed), params in groups.items()
    ]


def build(module: nn.Module, training: TrainingConfig, ranks: Ranks, dtype: torch.dtype, user: dict[str, Any]):
    """A DeepSpeed engine around ``module``, with AdamW in torch's own fused form (it needs no compiler) unless the user's
    configuration names another optimizer."""
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    config = engine_config(training, ranks, dtype, user)
    groups = parameter_groups(module, training.weight_decay)

    def adamw(params):
        return torch.optim.AdamW(params, lr=training.lr_student, fused=True)

    engine, *_ = deepspeed.initialize(
        model=module,
        model_parameters=groups,
        optimizer=None if "optimizer" in user else adamw,
        config=config,
        dist_init_required=False,
    )
    return engine


def set_rates(engine, rates: dict[str, float]) -> None:
    """Set the learning rate of each parameter group by its part: {"student": ..., "teacher": ...}."""
    for group in engine.optimizer.param_groups:
        group["lr"] = rates[group.get("part", "student")]
