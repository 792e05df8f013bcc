"""Which implementation of an operator runs: decided here and nowhere else.

    tensors on      Triton importable      impl="auto"      impl="triton"                       impl="reference"
    GPU             yes                    triton           triton                              reference
    GPU             no                     reference, said  RuntimeError                        reference
    CPU             -                      reference        triton if TRITON_INTERPRET=1, else  reference
                                                            RuntimeError

float64 always takes the reference: the kernels accumulate in float32. A fall-back that a user did not ask for is said
once a process in the log "bikd_kernels".
"""

import functools
import logging
import os
from collections.abc import Iterable

import torch
from torch import Tensor

from .lang import MISSING

logger = logging.getLogger("bikd_kernels")
KERNEL_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
IMPLEMENTATIONS = ("auto", "triton", "reference")

HAS_TRITON = not MISSING
INTERPRETED = os.environ.get("TRITON_INTERPRET", "0") == "1"  # Triton reads it when a kernel is defined, so do we


@functools.cache
def say_once(message: str) -> None:
    """Log a warning the first time it is given."""
    logger.warning(message)


def _obstacle(tensors: list[Tensor]) -> str | None:
    """Why the Triton kernels cannot take these tensors, or None if they can."""
    if not HAS_TRITON:
        return MISSING or "Triton is not installed"
    wrong = [x.dtype for x in tensors if x.is_floating_point() and x.dtype not in KERNEL_DTYPES]
    if wrong:
        return f"the kernels take float32, bfloat16 and float16, not {wrong[0]}"
    if not all(x.is_cuda for x in tensors) and not INTERPRETED:
        return "the tensors are not on a GPU (set TRITON_INTERPRET=1 before the import to interpret the kernels)"
    return None


def choose(impl: str, tensors: Iterable[Tensor]) -> str:
    """Name the implementation to run, "triton" or "reference", for these arguments of one call.

    impl: "auto" takes Triton on a GPU where it can; "triton" insists; "reference" is plain PyTorch.
    Raises ValueError for an unknown impl or tensors on several devices, RuntimeError where impl="triton" cannot be had.
    """
    if impl not in IMPLEMENTATIONS:
        raise ValueError(f"impl must be one of {', '.join(IMPLEMENTATIONS)}, got {impl!r}")
    present = list(tensors)
    devices = {x.device for x in present}
    if len(devices) > 1:
        raise ValueError(f"all tensors must be on one device, got {', '.join(sorted(str(d) for d in devices))}")
    if impl == "reference":
        return impl
    on_gpu = len(present) > 0 and all(x.is_cuda for x in present)
    if impl == "auto" and not on_gpu:
        return "reference"
    why_not = _obstacle(present)
    if why_not is None:
        return "triton"
    if impl == "triton":
        raise RuntimeError(f"impl='triton' is not possible here: {why_not}; use impl='auto' or impl='reference'")
    if not torch.compiler.is_compiling():
        say_once(f"falling back to the plain PyTorch operators: {why_not}")
    return "reference"


def speaks_ptx(x: Tensor) -> bool:
    """Whether kernels on x's device may hold NVIDIA's instructions: not AMD's GPUs, not the interpreter."""
    return x.is_cuda and torch.version.hip is None and not INTERPRETED
