"""The DeepSpeed engine: its configuration, ours below the user's, and the optimizer's parameter groups."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bikd_fast.config import ConfigError, TrainingConfig
from bikd_fast.training import optimizers
from bikd_fast.training.distributed import Ranks

_LOW = {"fp16": torch.float16, "bf16": torch.bfloat16}
_NATIVE = {"amx_bf16", "avx512_bf16"}  # the latter without the former: AMD's, from Zen 4 on


def precision(training: TrainingConfig, device: torch.device) -> torch.dtype:
    """bfloat16 or float32; ``auto`` takes bf16 where the hardware multiplies it natively (otherwise it is emulated, slower)."""
    if training.precision != "auto":
        return torch.bfloat16 if training.precision == "bf16" else torch.float32
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)()
        native = bool(supported and _NATIVE & _processor_flags())
    return torch.bfloat16 if native else torch.float32


def _processor_flags() -> set[str]:
    try:
        return set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return set()


def low_precision(user: dict[str, Any]) -> torch.dtype | None:
    """The type that the whole module is cast to by ``fp16`` or ``bf16`` in the JSON; None where it stays float32."""
    return next((dtype for key, dtype in _LOW.items() if user.get(key, {}).get("enabled")), None)


def zero_stage(user: dict[str, Any]) -> int:
    """The ZeRO stage: the user's; 1 where the module is cast to half precision (float32 masters are kept there), else 0."""
    return int(user.get("zero_optimization", {}).get("stage", 1 if low_precision(user) else 0))


def engine_config(training: TrainingConfig, ranks: Ranks, dtype: torch.dtype, user: dict[str, Any]) -> dict[str, Any]:
    """DeepSpeed's configuration: the user's keys where given, ours elsewhere; ``training`` agrees with the user's already."""
    ours: dict[str, Any] = {
        "zero_allow_untested_optimizer": True,
        "gradient_clipping": 1.0,
        "zero_force_ds_cpu_optimizer": False,  # DeepSpeed's own for offloading needs a compiler
        "steps_per_print": 10**9,
        "timers": {"throughput": {"enabled": False}},  # it waits for the device twice a step; ours does not (log.py)
    }
    if not any(user.get(key, {}).get("enabled") for key in (*_LOW, "torch_autocast")):
        ours["torch_autocast"] = {"enabled": dtype == torch.bfloat16, "dtype": "bfloat16"}
    fixed = {
        "train_batch_size": training.batch_size,
        "gradient_accumulation_steps": training.accumulation,
        "train_micro_batch_size_per_gpu": training.batch_size // (ranks.world * training.accumulation),
        "zero_optimization": {**user.get("zero_optimization", {}), "stage": zero_stage(user)},
    }
    return {**ours, **user, **fixed}


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Groups named student/teacher x decayed/plain, the student's first: DeepSpeed's monitors show the first one's rate; norms and
    biases are not decayed."""
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        part = "teacher" if name.startswith("adapter.") else "student"
        groups.setdefault((part, parameter.ndim > 1), []).append(parameter)
    return [
        {"params": params, "part": part, "weight_decay": weight_decay if decayed else 0.0}
        for (part, decayed), params in sorted(groups.items(), key=lambda group: group[0][0] != "student")
    ]


def build(module: nn.Module, training: TrainingConfig, ranks: Ranks, dtype: torch.dtype, user: dict[str, Any]):
    """A DeepSpeed engine around ``module``, with AdamW in torch's own fused form (it needs no compiler) unless the user's
    configuration names another optimizer.

    Raises:
        ConfigError: DeepSpeed refuses the configuration, or cannot build what it names.
    """
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    config = engine_config(training, ranks, dtype, user)
    make = optimizers.factory(user, training.lr_student, zero_stage(user))
    if make is not None:
        config.pop("optimizer", None)
    try:
        engine, *_ = deepspeed.initialize(
            model=module,
            model_parameters=parameter_groups(module, training.weight_decay),
            optimizer=make,
            config=config,
            dist_init_required=False,
        )
    except (AssertionError, ValueError, TypeError, ImportError) as error:
        if isinstance(error, ConfigError) or not user:
            raise
        raise ConfigError(f"deepspeed_config: DeepSpeed refuses it: {_first_line(error)}.") from error
    except Exception as error:
        if type(error).__name__ in ("CUDAMismatchException", "CalledProcessError", "RuntimeError") and make is None:
            raise ConfigError(
                f"deepspeed_config: DeepSpeed cannot compile its optimizer {user['optimizer'].get('type')} here "
                f"({_first_line(error)}). Adam, AdamW, SGD and Lamb need no compiler."
            ) from error
        raise
    if ranks.world == 1 and engine.zero_optimization_stage() == 0:
        engine.enable_backward_allreduce = False  # it would flatten and unflatten every gradient to share it with nobody
    return engine


def show(engine, row: dict[str, Any], samples: int) -> None:
    """Give a line of the log to the monitors that the JSON enables. DeepSpeed's own give them the first group's rate alone.

    Args:
        row: empty where no line was due.
        samples: pictures so far, which monitors count by.
    """
    if not row or not engine.monitor.enabled:
        return
    teacher = [group["lr"] for group in engine.optimizer.param_groups if group.get("part") == "teacher"]
    shown = {name: value for name, value in row.items() if name not in ("step", "phase", "lr")} | dict(zip(["lr_teacher"], teacher))
    engine.monitor.write_events([(f"Train/Samples/{name}", value, samples) for name, value in shown.items()])


def scaling(engine) -> dict[str, float]:
    """Of fp16: its loss scale, and how many steps DeepSpeed has left out because a gradient overflowed at a larger one; else {}."""
    if not engine.fp16_enabled():
        return {}
    return {"loss_scale": engine.optimizer.loss_scale, "overflowed_steps": engine.skipped_steps}


def take_over_clipping(engine) -> float:
    """The greatest norm of a step's gradient where the optimizer can clip by itself, and then DeepSpeed does not; else 0.

    DeepSpeed clips at ZeRO 0 with a norm and a product for every parameter by itself. A fused optimizer divides by a number on
    the device as it goes, and the norms are there already: :class:`bikd_fast.training.bad_steps.BadSteps` needs them.
    """
    if engine.zero_optimization_stage() > 0 or not fused(engine.basic_optimizer):
        return 0.0
    greatest = float(engine.gradient_clipping())
    engine._config.gradient_clipping = 0.0
    return greatest


def fused(optimizer: torch.optim.Optimizer) -> bool:
    """Whether the optimizer reads ``grad_scale`` and ``found_inf`` on the device."""
    return bool(getattr(optimizer, "_step_supports_amp_scaling", False))


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__


def whole_gradients(engine) -> list[torch.Tensor]:
    """Averaged gradients that this rank holds whole: all of them at ZeRO 0, none at the stages that partition them."""
    if engine.zero_optimization_stage() > 0:
        return []  # DeepSpeed looks at the norm itself there and skips
    for parameter in engine.module.parameters():
        if parameter.requires_grad and parameter.grad is None:
            # what DeepSpeed's reduction does on several ranks, and every ZeRO stage: the optimizer counts the same steps on one
            parameter.grad = torch.zeros_like(parameter)
    return [p.grad for p in engine.module.parameters() if p.grad is not None]
