"""Checkpoints: networks and optimizer in one safetensors file, written whole or not at all, checked when read.

Every random choice is a pure function of (seed, step), so weights, optimizer state and the step number are everything.
Parameters and moments are stored under their names, at full size and in float32, so a checkpoint fits any number of ranks and
any ZeRO stage.
"""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from bikd_fast.errors import UserError

PATTERN = "step-*.safetensors"


class CheckpointError(UserError):
    """A checkpoint that does not fit this run; the message names both."""


def save(folder: Path, step: int, module: nn.Module, optimizer: Any, settings: str, keep: int) -> Path:
    """:func:`state` and :func:`write` in one, for a world of one."""
    return write(folder, step, state(module, optimizer), settings, keep)


def write(folder: Path, step: int, tensors: dict[str, torch.Tensor], settings: str, keep: int) -> Path:
    """Write ``folder/step-N.safetensors`` (to a temporary name, synced, renamed) and drop all but the newest ``keep``.

    Args:
        settings: fingerprint of everything the training depends on; a checkpoint of other settings is not taken up.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{step:08d}.safetensors"
    temporary = folder / f".writing-{os.getpid()}"
    metadata = {"bikd_checkpoint": json.dumps({"step": step, "settings": settings, "digest": digest(tensors)})}
    save_file(tensors, temporary, metadata=metadata)
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)
    _sync_folder(folder)
    for old in sorted(folder.glob(PATTERN))[:-keep]:
        old.unlink(missing_ok=True)
    for orphan in folder.glob(".writing-*"):
        orphan.unlink(missing_ok=True)
    return path


def _sync_folder(folder: Path) -> None:
    """The new name itself is on disk before the old checkpoints go."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def newest(folder: Path, settings: str) -> tuple[int, dict[str, torch.Tensor], list[str]] | None:
    """(step, tensors, warnings) of the newest whole checkpoint of these settings; None where there is none.

    A half-written or damaged file is named in the warnings and the one before it is used.
    """
    warnings = []
    for path in sorted(folder.glob(PATTERN), reverse=True):
        try:
            described, tensors = _read(path)
        except Exception as error:
            warnings.append(f"{path} is damaged ({error}); trying the one before it")
            continue
        if described["settings"] != settings:
            warnings.append(f"{path} belongs to other settings and is left alone")
            continue
        return described["step"], tensors, warnings
    if warnings:
        return -1, {}, warnings
    return None


def _read(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """What a checkpoint says of itself, and its tensors; raises where it is not whole."""
    with safe_open(path, framework="pt") as file:
        described = json.loads(file.metadata()["bikd_checkpoint"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
    if digest(tensors) != described["digest"]:
        raise ValueError("its contents do not match their checksum")
    return described, tensors


def adopt(source: Path, folder: Path, settings: str) -> None:
    """Put a checkpoint of other settings into ``folder`` as one of these: a population goes on from its best with new settings."""
    described, tensors = _read(source)
    write(folder, described["step"], tensors, settings, keep=1)


def last_name(folder: Path) -> str:
    """Path of the newest checkpoint file, for messages; empty where there is none."""
    return str(max(folder.glob(PATTERN), default=""))


# ---------------------------------------------------------------------------------------------------- tensors <-> training


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
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}


def parameters(module: nn.Module) -> dict[str, torch.Tensor]:
    """The weights alone, float32, full size, on the CPU. With ZeRO every rank has to call."""
    tensors = {**{n: _whole(p) for n, p in module.named_parameters()}, **dict(module.named_buffers())}
    return {name: value.detach().cpu().clone() for name, value in tensors.items()}


@torch.no_grad()
def restore(tensors: dict[str, torch.Tensor], module: nn.Module, optimizer: Any) -> None:
    """Put a checkpoint's tensors back where :func:`state` took them from.

    Raises:
        CheckpointError: other networks or another optimizer.
    """
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
            _, key, of = name.split("/", 2)
            moments.setdefault(of, {})[key] = value
    inner = _inner(optimizer)
    if any(_partitioned(p) for p in parameters.values()):
        _make_room(optimizer, inner, moments)
    for name, parameter in parameters.items():
        _put_back(parameter, tensors[f"module/{name}"], moments.get(name, {}), inner)


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
        return {k: v for k, v in inner.state.get(parameter, {}).items() if isinstance(v, torch.Tensor)}
    from deepspeed.utils import safe_get_full_optimizer_state

    flat: dict[str, Any] = next((s for s in inner.state.values() if s), {})
    result = {}
    for key, value in flat.items():
        if isinstance(value, torch.Tensor):
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


def _step_for(inner: torch.optim.Optimizer, parameter: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """A step counter lives where the optimizer looks for it: beside the parameter if fused, else on the CPU."""
    fused = any(group.get("fused") or group.get("capturable") for group in inner.param_groups)
    return value.clone().to(parameter.device if fused else "cpu")


def digest(tensors: dict[str, torch.Tensor]) -> int:
    """CRC-32 over names and bytes of all tensors."""
    crc = 0
    for name in sorted(tensors):
        crc = zlib.crc32(name.encode(), crc)
        crc = zlib.crc32(tensors[name].contiguous().reshape(-1).view(torch.uint8).numpy().data, crc)
    return crc
