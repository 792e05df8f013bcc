"""Whatever holds a picture — a path, a Pillow picture, an array, a tensor — to the square that a detector reads."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from bikd_fast.data import decode_image, fit, picture_array
from bikd_fast.errors import UserError


class InputError(UserError):
    """Something given as a picture is none; the message says what was found and what is taken."""


def each(images: Any) -> Iterable[Any]:
    """The single pictures of whatever :meth:`Detector.predict` was given: one picture, a batch, or an iterable of pictures."""
    if isinstance(images, str | os.PathLike | Image.Image):
        return [images]
    if isinstance(images, torch.Tensor | np.ndarray):
        if images.ndim == 4:
            return images
        return [images]
    if not isinstance(images, Iterable):
        raise InputError(f"a picture cannot be a {type(images).__name__}: give paths, Pillow pictures, arrays or tensors.")
    return images


def pixels(image: Any) -> torch.Tensor:
    """One picture as (3, H, W): uint8, or float32 in [0, 1] where floats were given.

    image: a path; a Pillow picture; an array (H, W, 3), (H, W, 1) or (H, W); a tensor (3, H, W), (1, H, W) or (H, W).
    Numbers are uint8, uint16 (all 16 bits used), or floats in [0, 1]. RGB order.

    Raises:
        DataError: the file is no readable picture.
        InputError: another type, shape or range of values.
    """
    if isinstance(image, str | os.PathLike):
        return torch.from_numpy(decode_image(Path(image))).permute(2, 0, 1)
    if isinstance(image, Image.Image):
        return torch.from_numpy(picture_array(image, "the Pillow picture")).permute(2, 0, 1)
    if isinstance(image, np.ndarray):
        array = image[:, :, None] if image.ndim == 2 else image
        if array.ndim != 3 or array.shape[2] not in (1, 3):
            raise InputError(f"an array of shape {image.shape} is no picture: (H, W, 3), (H, W, 1) or (H, W) is taken.")
        return _numbers(_as_tensor(array).permute(2, 0, 1))
    if isinstance(image, torch.Tensor):
        planes = image.detach()[None] if image.ndim == 2 else image.detach()
        if planes.ndim != 3 or planes.shape[0] not in (1, 3):
            raise InputError(f"a tensor of shape {tuple(image.shape)} is no picture: (3, H, W), (1, H, W) or (H, W) is taken.")
        return _numbers(planes)
    raise InputError(f"a picture cannot be a {type(image).__name__}: give paths, Pillow pictures, arrays or tensors.")


def square(image: Any, size: int) -> torch.Tensor:
    """One picture as (3, size, size), uint8 or float32 in [0, 1], resized as the training pictures were."""
    planes = pixels(image)
    return planes if planes.shape[-2:] == (size, size) else fit(planes, size)


def together(squares: Sequence[torch.Tensor]) -> torch.Tensor:
    """(B, 3, S, S), channels_last, of squares (3, S, S) of one dtype; decoded pictures lie in that order already."""
    return torch.stack([square.permute(1, 2, 0) for square in squares]).permute(0, 3, 1, 2)


def unit(batch: torch.Tensor, device: torch.device) -> torch.Tensor:
    """(B, 3, S, S) uint8 or float in [0, 1] -> float32 in [0, 1] on the device, channels_last as the networks like it."""
    x = batch.to(device).contiguous(memory_format=torch.channels_last)
    return x.float().div_(255) if x.dtype == torch.uint8 else x.float()  # x / 255 takes five times as long


def _as_tensor(array: np.ndarray) -> torch.Tensor:
    if array.dtype.kind not in "uf" and array.dtype != bool:
        raise InputError(f"an array of {array.dtype} is no picture: uint8, uint16 or floats in [0, 1] are taken.")
    if array.dtype == np.uint16:
        return torch.from_numpy(((array.astype(np.uint32) + 128) // 257).astype(np.uint8))
    if array.dtype.kind == "f":
        array = array.astype(np.float32)
    elif array.dtype == bool:
        array = array.astype(np.uint8) * np.uint8(255)
    elif array.dtype != np.uint8:
        raise InputError(f"an array of {array.dtype} is no picture: uint8, uint16 or floats in [0, 1] are taken.")
    array = np.ascontiguousarray(array)
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _numbers(planes: torch.Tensor) -> torch.Tensor:
    """Three planes of uint8, or of float32 within [0, 1]."""
    if 0 in planes.shape:
        raise InputError(f"an empty picture, {tuple(planes.shape)}.")
    if planes.dtype == torch.uint16:
        planes = ((planes.to(torch.int32) + 128) // 257).to(torch.uint8)
    elif planes.is_floating_point():
        planes = planes.float()
        low, high = planes.min().item(), planes.max().item()
        if not (low >= 0 and high <= 1):  # NaN fails too
            raise InputError(
                f"float values from {low:.4g} to {high:.4g}: floats must lie in [0, 1], not normalised; the detector does that."
            )
    elif planes.dtype != torch.uint8:
        raise InputError(f"a tensor of {planes.dtype} is no picture: uint8, uint16 or floats in [0, 1] are taken.")
    return planes.expand(3, -1, -1) if planes.shape[0] == 1 else planes
