"""triton and tl, or stand-ins that let the kernels be defined (never run) where Triton is not installed or is broken."""

import importlib
from types import SimpleNamespace
from typing import Any


def _undecorated(function: Any = None, **_: Any) -> Any:
    """As triton.jit is used: @jit and @jit(option=...)."""
    return _undecorated if function is None else function


triton: Any
tl: Any
MISSING = ""  # why there is no Triton
try:
    triton = importlib.import_module("triton")
    tl = importlib.import_module("triton.language")
except Exception as error:  # a broken one raises anything: a library that does not load, a driver that does not answer
    absent = isinstance(error, ModuleNotFoundError) and str(error.name).split(".")[0] == "triton"
    MISSING = "Triton is not installed" if absent else f"Triton cannot be imported ({type(error).__name__}: {error})"
    triton = SimpleNamespace(jit=_undecorated, cdiv=lambda a, b: -(-a // b))
    tl = SimpleNamespace(constexpr=lambda value: value)

__all__ = ["MISSING", "tl", "triton"]
