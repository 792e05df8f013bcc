"""Checkpoints: one safetensors file a step, written whole or not at all, checked when read.

Every random choice is a pure function of (seed, step), so weights, optimizer state and the step number are everything; how they
become tensors is :mod:`bikd_fast.training.state`'s.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from bikd_fast.files import whole

PATTERN = "step-*.safetensors"


@dataclass(frozen=True)
class Found:
    """What :func:`newest` has found.

    Attributes:
        path: the checkpoint; None where none fits.
        step: how many steps were done.
        tensors: by name.
        about: what else was said of it when it was written.
        warnings: what is wrong with newer ones.
    """

    path: Path | None = None
    step: int = 0
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def path_of(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return folder / f"step-{step:08d}.safetensors"


def write(
    folder: Path, step: int, tensors: dict[str, torch.Tensor], settings: str, keep: int, about: Mapping[str, Any] | None = None
) -> Path:
    """Write the checkpoint of a step; of those of the same settings the newest ``keep`` up to this step stay.

    Later ones of these settings go, as do damaged ones: the training has gone on from before them. Those of other settings stay.

    Args:
        settings: fingerprint of everything the training depends on; a checkpoint of other settings is not taken up.
        about: what else to remember, as JSON takes it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = path_of(folder, step)
    described = {"step": step, "settings": settings, "digest": digest(tensors), "about": dict(about or {})}
    for orphan in folder.glob(".writing-*"):
        orphan.unlink(missing_ok=True)
    with whole(path) as temporary:
        save_file(tensors, temporary, metadata={"bikd_checkpoint": json.dumps(described)})
    whose = {other: _settings_of(other) for other in sorted(folder.glob(PATTERN))}
    kept = [other for other, of in whose.items() if of == settings and other <= path][-keep:]
    for other, of in whose.items():
        if of in (settings, None) and other not in kept:
            other.unlink(missing_ok=True)
    return path


def newest(folder: Path, settings: str) -> Found:
    """The newest whole checkpoint of these settings.

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
        return Found(path, described["step"], tensors, described.get("about", {}), tuple(warnings))
    return Found(warnings=tuple(warnings))


def _read(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """What a checkpoint says of itself, and its tensors; raises where it is not whole."""
    with safe_open(path, framework="pt") as file:
        described = json.loads(file.metadata()["bikd_checkpoint"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
    if digest(tensors) != described["digest"]:
        raise ValueError("its contents do not match their checksum")
    return described, tensors


def _settings_of(path: Path) -> str | None:
    """Whose a checkpoint is, by its header alone; None where that cannot be read."""
    try:
        with safe_open(path, framework="pt") as file:
            return json.loads(file.metadata()["bikd_checkpoint"])["settings"]
    except Exception:
        return None


def adopt(source: Path, folder: Path, settings: str) -> None:
    """Put a checkpoint of other settings into ``folder`` as one of these: a population goes on from its best with new settings."""
    described, tensors = _read(source)
    write(folder, described["step"], tensors, settings, keep=1, about=described.get("about"))


def digest(tensors: dict[str, torch.Tensor]) -> int:
    """CRC-32 over names and bytes of all tensors."""
    crc = 0
    for name in sorted(tensors):
        crc = zlib.crc32(name.encode(), crc)
        crc = zlib.crc32(tensors[name].contiguous().reshape(-1).view(torch.uint8).numpy().data, crc)
    return crc
