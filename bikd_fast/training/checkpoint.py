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
from bikd_fast.training.state import CheckpointError

PATTERN = "step-*.safetensors"
FORMAT = 2  # files of format 1 name none: their checksum was of the tensors alone
_KEY = "bikd_checkpoint"  # of the file's metadata


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

    Later ones of these settings go, as do damaged ones: the training has gone on from before them. Those of other settings and of
    other formats stay.

    Args:
        settings: fingerprint of everything the training depends on; a checkpoint of other settings is not taken up.
        about: what else to remember, as JSON takes it.

    Raises:
        CheckpointError: a folder bears the name of a checkpoint.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = path_of(folder, step)
    _files(folder)  # told before anything is written
    described = {"format": FORMAT, "step": step, "settings": settings, "about": dict(about or {})}
    described["digest"] = digest(tensors, described)
    for orphan in [*folder.glob(".writing-*"), *folder.glob(".tmp*")]:  # the latter are safetensors' own drafts
        orphan.unlink(missing_ok=True)
    with whole(path) as temporary:
        save_file(tensors, temporary, metadata={_KEY: json.dumps(described)})
    whose, ours = {other: _whose(other) for other in _files(folder)}, (FORMAT, settings)
    kept = [other for other, of in whose.items() if of == ours and other <= path][-keep:]
    for other, of in whose.items():
        if of in (ours, None) and other not in kept:
            other.unlink(missing_ok=True)
    return path


def newest(folder: Path, settings: str) -> Found:
    """The newest whole checkpoint of these settings.

    A half-written or damaged file is named in the warnings and the one before it is used.

    Raises:
        CheckpointError: a folder bears the name of a checkpoint.
    """
    warnings = []
    for path in reversed(_files(folder)):
        try:
            described, tensors = _read(path)
            if path != path_of(folder, described["step"]):
                raise ValueError(f"it is of step {described['step']}")
        except CheckpointError as error:
            warnings.append(str(error))
            continue
        except Exception as error:
            warnings.append(f"{path} is damaged ({error}); trying the one before it")
            continue
        if described["settings"] != settings:
            warnings.append(f"{path} belongs to other settings and is left alone")
            continue
        return Found(path, described["step"], tensors, described["about"], tuple(warnings))
    return Found(warnings=tuple(warnings))


def _files(folder: Path) -> list[Path]:
    """The checkpoints in a folder, whole or not, in the order of their steps."""
    found = sorted(folder.glob(PATTERN))
    for path in found:
        if path.is_dir():
            raise CheckpointError(f"{path}: a folder, and checkpoints are files of such names. Move it away.")
    return found


def _read(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """What a checkpoint says of itself, and its tensors; raises CheckpointError where it is whole and of another format, and any
    other exception where it is not whole."""
    with safe_open(path, framework="pt") as file:
        described = json.loads((file.metadata() or {}).get(_KEY, "null"))
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
    if not isinstance(described, dict):
        raise ValueError("it does not say what it is")
    known = described.pop("digest", None)
    format_of = described.get("format", 1)
    if known != (digest(tensors) if format_of == 1 else digest(tensors, described)):
        raise ValueError("its contents do not match their checksum")
    if format_of != FORMAT:
        raise CheckpointError(
            f"{path} is of format {format_of}, and this version of bikd_fast goes on from {FORMAT}: it is left alone. Go on with "
            "the version that wrote it, or remove it"
        )
    return described, tensors


def _whose(path: Path) -> tuple[int, str] | None:
    """A checkpoint's format and settings, by its header alone; None where that cannot be read."""
    try:
        with safe_open(path, framework="pt") as file:
            described = json.loads(file.metadata()[_KEY])
        return described.get("format", 1), described["settings"]
    except Exception:
        return None


def adopt(source: Path, folder: Path, settings: str) -> None:
    """Put a checkpoint of other settings into ``folder`` as one of these: a population goes on from its best with new settings.

    Raises:
        CheckpointError: it is damaged or of another format.
    """
    try:
        described, tensors = _read(source)
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(f"{source} is damaged ({error}): this setting cannot go on from it.") from error
    write(folder, described["step"], tensors, settings, keep=1, about=described["about"])


def digest(tensors: dict[str, torch.Tensor], described: Mapping[str, Any] | None = None) -> int:
    """CRC-32 over names, types, shapes and bytes of all tensors and over what is said of them; without that, as in format 1, over
    names and bytes."""
    crc = 0 if described is None else zlib.crc32(json.dumps(described, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        what = name if described is None else f"{name} {tensor.dtype} {tuple(tensor.shape)};"
        crc = zlib.crc32(what.encode(), crc)
        crc = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, crc)
    return crc
