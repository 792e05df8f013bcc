"""triton and tl, or stand-ins that let the kernels be defined (never run) where Triton is not installed."""

import importlib
from types import SimpleNamespace
from typing import Any


def _undecorated(function: Any = None, **_: Any) -> Any:
    """As triton.jit is used: @jit and @jit(option=...)."""
    return function if function is not None else _undecorated_with_options


def _undecorated_with_options(function: Any) -> Any:
    return function


triton: Any
tl: Any
try:
    triton = importlib.import_module("triton")
    tl = importlib.import_module("triton.language")
except ImportError:
    triton = SimpleNamespace(jit=_undecorated, cdiv=lambda a, b: -(-a // b))
    tl = SimpleNamespace(constexpr=lambda value: value)

__all__ = ["tl", "triton"]
