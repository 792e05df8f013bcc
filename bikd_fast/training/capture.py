"""What a CUDA graph needs around it: runs before, a stream and a memory pool of its own, and nothing left behind but the graph."""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

WARM = 3  # runs before a capture: kernels are compiled, libraries and caches set up


def bring(static: torch.Tensor, given: torch.Tensor) -> None:
    """Copy into a graph's input what is not there already, without waiting for the device."""
    if given is static:
        return
    if static.is_cuda and not given.is_cuda:
        given = given.pin_memory()
    static.copy_(given, non_blocking=True)


@contextmanager
def unchanged(module: nn.Module) -> Iterator[None]:
    """The runs before a capture leave no trace in the module's buffers. (Gradients are asked for, never accumulated; no random
    numbers are drawn: the simulator's and the students' are hashes of the samples' keys.)"""
    kept = {name: buffer.clone() for name, buffer in module.named_buffers()}
    try:
        yield
    finally:
        for name, buffer in module.named_buffers():
            buffer.copy_(kept[name])


def record(*parts: Callable[[], Any]) -> list[tuple[torch.cuda.CUDAGraph, Any]]:
    """Each part as a graph, and what it returned, whose tensors every replay fills anew; to be replayed in turn, in this order.

    Raises:
        RuntimeError: one of them cannot be captured; the device is as before.
    """
    current, side = torch.cuda.current_stream(), _side(torch.cuda.current_device())
    side.wait_stream(current)
    found = []
    with torch.cuda.stream(side):  # comes back from this stream also where torch.cuda.graph cannot, after a capture that failed
        for i in range(WARM):
            # a wait for the device breaks a capture, and may leave the allocator in the middle of it: found out before
            with _no_waiting() if i == WARM - 1 else nullcontext():
                for part in parts:
                    part()
        with _no_collection():
            pool = torch.cuda.graph_pool_handle()  # shared by the parts alone: replayed in this order, none overwrites another's
            for part in parts:
                graph = torch.cuda.CUDAGraph()
                # thread_local: NCCL's and DeepSpeed's threads may ask the device meanwhile
                with torch.cuda.graph(graph, pool=pool, stream=side, capture_error_mode="thread_local"):
                    result = part()
                found.append((graph, result))
    current.wait_stream(side)
    return found


def origin(error: BaseException) -> BaseException:
    """What came first: the end of a capture that has failed already raises once more, and says less."""
    while isinstance(error.__context__, RuntimeError):
        error = error.__context__
    return error


@contextmanager
def _no_collection() -> Iterator[None]:
    """No garbage is collected meanwhile: it may hold graphs and events of an earlier capture, whose end breaks this one."""
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@functools.cache
def _side(device: int) -> torch.cuda.Stream:
    """The one stream of all captures: cuBLAS keeps a workspace for every stream that it has seen."""
    return torch.cuda.Stream(device)


@contextmanager
def _no_waiting() -> Iterator[None]:
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)
