"""Operators as torch wants them: a schema, one implementation for either device, and one that knows shapes alone."""

from collections.abc import Callable

import torch

_library = torch.library.Library("bikd_kernels", "FRAGMENT")


def register(schema: str, implementation: Callable, shapes: Callable) -> None:
    """torch.ops.bikd_kernels.NAME for the schema "NAME(...) -> ...", without gradient.

    shapes: takes the same arguments and returns empty tensors like those that the implementation returns.
    """
    name = schema[: schema.index("(")]
    _library.define(schema)
    for key in ("CPU", "CUDA"):
        _library.impl(name, implementation, key)
    torch.library.register_fake(f"bikd_kernels::{name}", shapes, lib=_library)
