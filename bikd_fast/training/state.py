"""Networks and optimizer as named tensors, and back: what a checkpoint holds of a training.

Parameters and moments go by their names, at full size and in float32, so they fit any number of ranks and any ZeRO stage.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from bikd_fast.errors import UserError

SCALING = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")  # of DeepSpeed's loss scalers


class CheckpointError(UserError):
    """A checkpoint that does not fit this run; the message names both."""


def state(module: nn.Module, optimizer: Any) -> dict[str, torch.Tensor]:
    """Parameters, buffers and optimizer state by name, full size, on the CPU.

    Args:
        optimizer: a torch optimizer, or DeepSpeed's ZeRO optimizer around one. With ZeRO every rank has to call.
    """
    inner = _inner(optimizer)
    _link(optimizer)
    tensors = {f"module/{name}": value for name, value in module.named_buffers()}
    for name, parameter in module.named_parameters():
        tensors[f"module/{name}"] = _whole(parameter)
        for key, value in _moments(parameter, inner).items():
            tensors[f"optimizer/{key}/{name}"] = value
    for i, group in enumerate(inner.param_groups):
        if "step" in group:  # some count there
            tensors[f"group/{i}/step"] = _number(group["step"])
    for name, number in _scaling(optimizer).items():
        tensors[f"scaler/{name}"] = _number(number)
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}


def kind(optimizer: Any) -> str:
    """What the optimizer is: the state of one kind means nothing to another."""
    return type(_inner(optimizer)).__name__


def parameters(module: nn.Module) -> dict[str, torch.Tensor]:
    """The weights alone, float32, full size, on the CPU. With ZeRO every rank has to call."""
    tensors = {**{n: _whole(p) for n, p in module.named_parameters()}, **dict(module.named_buffers())}
    return {name: value.detach().cpu().clone() for name, value in tensors.items()}


@torch.no_grad()
def restore(tensors: dict[str, torch.Tensor], module: nn.Module, optimizer: Any, of: str = "") -> None:
    """Put a checkpoint's tensors back where :func:`state` took them from.

    Args:
        of: the :func:`kind` of the optimizer that they come from, if it is known.

    Raises:
        CheckpointError: other networks or another optimizer.
    """
    if of and of != kind(optimizer):
        raise CheckpointError(
            f"the checkpoint is of {of}, and this run trains with {kind(optimizer)}: give the DeepSpeed configuration's optimizer "
            "as it was, or --resume never to start anew."
        )
    parameters, buffers = dict(module.named_parameters()), dict(module.named_buffers())
    names = {name.removeprefix("module/") for name in tensors if name.startswith("module/")}
    if names != parameters.keys() | buffers.keys():
        odd = sorted(names ^ (parameters.keys() | buffers.keys()))[0]
        raise CheckpointError(f"the checkpoint holds other networks than this run (first difference: {odd}).")
    for name, buffer in buffers.items():
        buffer.copy_(tensors[f"module/{name}"])
    moments: dict[str, dict[str, torch.Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer/"):
            _, key, owner = name.split("/", 2)
            moments.setdefault(owner, {})[key] = value
    inner = _inner(optimizer)
    if any(_partitioned(p) for p in parameters.values()):
        _make_room(optimizer, inner, moments)
    for name, parameter in parameters.items():
        _put_back(parameter, tensors[f"module/{name}"], moments.get(name, {}), inner)
    for name, value in tensors.items():
        if name.startswith("group/"):
            inner.param_groups[int(name.split("/")[1])]["step"] = value.item() if value.dtype == torch.int64 else value.clone()
        elif name.startswith("scaler/") and hasattr(optimizer, "loss_scaler"):
            setattr(optimizer.loss_scaler, name.removeprefix("scaler/"), value.item())


def _number(value: Any) -> torch.Tensor:
    """A count or a factor as a tensor; whole Python numbers are int64, which no optimizer here counts in itself."""
    if isinstance(value, torch.Tensor):
        return value
    return torch.tensor(value, dtype=torch.int64 if isinstance(value, int) else torch.float64)


def _scaling(optimizer: Any) -> dict[str, Any]:
    """How far fp16's loss scale has come; nothing where it stays as it is."""
    scaler = getattr(optimizer, "loss_scaler", None)
    return {name: getattr(scaler, name) for name in SCALING} if hasattr(scaler, "last_overflow_iter") else {}


def _partitioned(parameter: nn.Parameter) -> bool:
    return hasattr(parameter, "ds_id") or hasattr(parameter, "_hp_mapping")


def _inner(optimizer: Any) -> torch.optim.Optimizer:
    """The torch optimizer inside DeepSpeed's."""
    while not isinstance(optimizer, torch.optim.Optimizer) or hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    return optimizer


def _whole(parameter: nn.Parameter) -> torch.Tensor:
    from deepspeed.utils import safe_get_full_fp32_param

    return safe_get_full_fp32_param(parameter) if _partitioned(parameter) else parameter.detach().float()


def _moments(parameter: nn.Parameter, inner: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    if not _partitioned(parameter):
        return {k: _number(v) for k, v in inner.state.get(parameter, {}).items() if isinstance(v, torch.Tensor | int)}
    from deepspeed.utils import safe_get_full_optimizer_state

    flat: dict[str, Any] = next((s for s in inner.state.values() if s), {})
    result = {}
    for key, value in flat.items():
        if isinstance(value, torch.Tensor | int):
            value = _number(value)
            result[key] = value.clone() if value.ndim == 0 else safe_get_full_optimizer_state(parameter, key)
    return result


def _make_room(optimizer: Any, inner: torch.optim.Optimizer, moments: dict[str, dict[str, torch.Tensor]]) -> None:
    """ZeRO creates the state of its flat partitions in the first step only; a checkpoint is put back before it."""
    example = next(iter(moments.values()), {})
    flats = getattr(optimizer, "fp32_partitioned_groups_flat", None)  # stage 3
    for flat in flats if flats is not None else [p for group in inner.param_groups for p in group["params"]]:
        for key, value in example.items():
            inner.state[flat][key] = value.clone() if value.ndim == 0 else torch.zeros_like(flat)
            if value.ndim == 0:
                inner.state[flat][key] = _step_for(inner, flat, value)
    if example:
        _link(optimizer)


def _link(optimizer: Any) -> None:
    """Let every parameter find its part of the flat state. DeepSpeed does so once, after the first of several groups has made
    its first step, when the others have no state yet."""
    if hasattr(optimizer, "_lazy_init_hp_params_optimizer_state"):
        optimizer._hp_optimizer_states_linked = False
        optimizer._lazy_init_hp_params_optimizer_state()


def _put_back(
    parameter: nn.Parameter, value: torch.Tensor, moments: dict[str, torch.Tensor], inner: torch.optim.Optimizer
) -> None:
    if not _partitioned(parameter):
        parameter.copy_(value)
        for key, moment in moments.items():
            there = _step_for(inner, parameter, moment) if moment.ndim == 0 else moment.clone().to(parameter.device)
            inner.state[parameter][key] = there
        return
    from deepspeed import utils, zero

    whole = {key: moment for key, moment in moments.items() if moment.ndim}
    if not hasattr(parameter, "ds_id"):
        utils.safe_set_full_fp32_param(parameter, value.to(parameter.device))
        for name, moment in whole.items():
            utils.safe_set_full_optimizer_state(parameter, moment.to(parameter.device), name)
        parameter.data.copy_(value)
        return
    size = getattr(parameter, "ds_tensor").numel()  # noqa: B009 (DeepSpeed adds it)
    # stage 3: DeepSpeed's setters of whole tensors trip over the padding of the last rank's share
    utils.safe_set_local_fp32_param(parameter, _share(value, size).to(parameter.device))
    for name, moment in whole.items():
        utils.safe_set_local_optimizer_state(parameter, _share(moment, size).to(parameter.device), name)
    with zero.GatheredParameters([parameter], modifier_rank=0):
        parameter.data.copy_(value)


def _share(tensor: torch.Tensor, size: int) -> torch.Tensor:
    """This rank's ``size`` elements of a tensor that is spread over all ranks, zeros behind its end."""
    flat = tensor.flatten()
    world, rank = dist.get_world_size(), dist.get_rank()
    padded = torch.cat([flat, flat.new_zeros(size * world - flat.numel())])
    return padded[rank * size : (rank + 1) * size]


def _step_for(inner: torch.optim.Optimizer, parameter: torch.Tensor, value: torch.Tensor) -> torch.Tensor | int:
    """A step counter as the optimizer looks for it: a tensor beside the parameter if fused, else on the CPU, or a number."""
    if value.dtype == torch.int64:
        return int(value)
    fused = any(group.get("fused") or group.get("capturable") for group in inner.param_groups)
    return value.clone().to(parameter.device if fused else "cpu")
