"""triton and tl, or stand-ins that let the kernels be defined (never run) where Triton is not installed."""

import importlib
from types import SimpleNamespace
from typing import Any

triton: Any
tl: Any
try:
    triton = importlib.import_module("triton")
    tl = importlib.import_module("triton.language")
except ImportError:
    triton = SimpleNamespace(jit=lambda function: function, cdiv=lambda a, b: -(-a // b))
    tl = SimpleNamespace(constexpr=object)

__all__ = ["tl", "triton"]
