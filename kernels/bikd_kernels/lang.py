"""triton and tl, or stand-ins that let the kernels be defined (never run) where Triton is not installed."""

import importlib
from types import SimpleNamespace
from typing import Any


def _undecorated(function: Any = None, **_: Any) -> Any:
    """As triton.jit is used: @jit and @jit(option=...)."""
    return _undecorated if function is None else function


triton: Any
tl: Any
try:
    triton = importlib.import_module("triton")
    tl = importlib.import_module("triton.language")
except ImportError:
    triton = SimpleNamespace(jit=_undecorated, cdiv=lambda a, b: -(-a // b))
    tl = SimpleNamespace(constexpr=lambda value: value)

__all__ = ["tl", "triton"]
