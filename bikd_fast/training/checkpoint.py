"""Checkpoints: networks and optimizer in one safetensors file, written whole or not at all, checked when read.

Every random choice is a pure function of (seed, step), so weights, optimizer state and the step number are everything.
Parameters and moments are stored under their names at full size, so a checkpoint fits any number of ranks and ZeRO stage.
"""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

PATTERN = "step-*.safetensors"


def save(folder: Path, step: int, module: nn.Module, optimizer: torch.optim.Optimizer, settings: str, keep: int) -> Path:
    """Write ``folder/step-N.safetensors`` (to a temporary name, synced, renamed) and drop all but the newest ``keep``.

    Args:
        settings: fingerprint of everything the training depends on; a checkpoint of other settings is not taken up.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = state(module, optimizer)
    path = folder / f"step-{step:08d}.safetensors"
    temporary = folder / f".writing-{os.getpid()}"
    metadata = {"bikd_checkpoint": json.dumps({"step": step, "settings": settings, "digest": digest(tensors)})}
    save_file(tensors, temporary, metadata=metadata)
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)
    for old in sorted(folder.glob(PATTERN))[:-keep]:
        old.unlink(missing_ok=True)
    for orphan in folder.glob(".writing-*"):
        orphan.unlink(missing_ok=True)
    return path


def newest(folder: Path, settings: str) -> tuple[int, dict[str, torch.Tensor], list[str]] | None:
    """(step, tensors, warnings) of the newest whole checkpoint of these settings; None where there is none.

    A half-written or damaged file is named in the warnings and the one before it is used.
    """
    warnings = []
    for path in sorted(folder.glob(PATTERN), reverse=True):
        try:
            with safe_open(path, framework="pt") as file:
                described = json.loads(file.metadata()["bikd_checkpoint"])
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
            if digest(tensors) != described["digest"]:
                raise ValueError("its contents do not match their checksum")
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


def state(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Parameters, buffers and optimizer state by name, on the CPU."""
    tensors = {f"module/{name}": value for name, value in module.state_dict().items()}
    for name, parameter in module.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, torch.Tensor):
                tensors[f"optimizer/{key}/{name}"] = value
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}


@torch.no_grad()
def restore(tensors: dict[str, torch.Tensor], module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put a checkpoint's tensors back where :func:`state` took them from."""
    module.load_state_dict({n.removeprefix("module/"): t for n, t in tensors.items() if n.startswith("module/")})
    parameters = dict(module.named_parameters())
    for name, value in tensors.items():
        if name.startswith("optimizer/"):
            _, key, of = name.split("/", 2)
            parameter = parameters[of]
            device = parameter.device if key != "step" else value.device
            optimizer.state[parameter][key] = value.clone().to(device)


def digest(tensors: dict[str, torch.Tensor]) -> int:
    """CRC-32 over names and bytes of all tensors."""
    crc = 0
    for name in sorted(tensors):
        crc = zlib.crc32(name.encode(), crc)
        crc = zlib.crc32(tensors[name].contiguous().reshape(-1).view(torch.uint8).numpy().data, crc)
    return crc
