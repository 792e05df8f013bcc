"""What trainings of one process have in common, computed once: frozen features, object masks, natural copies of the same pictures.

A search trains dozens of detectors on a few sets of pictures with one backbone; a third of a short trial went into the same again.
"""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from bikd_fast.data.room import memory

SHARE = 0.125  # of a machine's memory, all its cores together, or of a GPU's
Result = TypeVar("Result")


class Kept:
    """Results of pure functions, found again by the content of what they were made from; the ones longest unused go first.

    What is found is what would be computed, to the bit: the contents are the key, not names or places. A result is handed out as
    it is, so nobody may write into it.

    Args:
        most: bytes that all results together may take; 0 keeps nothing and costs nothing.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._results: OrderedDict[str, tuple[int, Any]] = OrderedDict()

    def __call__(self, make: Callable[[], Result], name: str, *of: Any) -> Result:
        """``make()``, or what it gave before.

        Args:
            name: of the function.
            of: all that its result depends on: tensors, modules in eval mode, and values that print what they are.
        """
        if not self.most:
            return make()
        key = digest(name, *of)
        if key in self._results:
            self._results.move_to_end(key)
            return self._results[key][1]
        made = make()
        size = size_of(made)
        if size <= self.most:
            while sum(other for other, _ in self._results.values()) + size > self.most:
                self._results.popitem(last=False)
            self._results[key] = (size, made)
        return made

    @contextmanager
    def frozen(self, backbone: nn.Module) -> Iterator[None]:
        """Inside, a frozen backbone does not compute again what it makes of a batch of the same contents. For inference."""
        if not self.most:
            yield
            return
        compute, described = backbone.forward, digest(backbone)
        backbone.forward = lambda pictures: self(lambda: compute(pictures), "frozen", described, pictures)
        try:
            yield
        finally:
            del backbone.forward


NOTHING = Kept(0)


def room(device: torch.device) -> int:
    """Bytes that one process of a search may keep; one trial a core is assumed where there is no GPU."""
    if device.type == "cuda":
        return int(SHARE * torch.cuda.get_device_properties(device).total_memory)
    return int(SHARE * memory() / (os.cpu_count() or 1))


def digest(*values: Any) -> str:
    """Of contents: a tensor is its numbers, how they lie and where; a module its tensors and its plain attributes."""
    found = hashlib.sha256()
    for value in values:
        _add(found, value)
    return found.hexdigest()


def _add(found: Any, value: Any) -> None:
    if isinstance(value, torch.Tensor):
        found.update(f"{value.dtype} {tuple(value.shape)} {value.stride()} {value.device};".encode())
        found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    elif isinstance(value, nn.Module):
        plain = {k: v for k, v in sorted(vars(value).items()) if isinstance(v, str | int | float | tuple)}
        found.update(f"{plain} {value};".encode())
        for name, tensor in value.state_dict().items():
            found.update(name.encode())
            _add(found, tensor)
    else:
        found.update(f"{value!r};".encode())


def size_of(value: Any) -> int:
    """Bytes of the tensors and arrays inside a result."""
    if isinstance(value, torch.Tensor | np.ndarray):
        return value.nbytes
    if isinstance(value, list | tuple):
        return sum(map(size_of, value))
    if is_dataclass(value):
        return sum(size_of(getattr(value, field.name)) for field in fields(value))
    return 0
