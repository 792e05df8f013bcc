"""The few collective operations of distributed evaluation, on NumPy arrays. group=None: one process, none sent."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist

T = TypeVar("T")


def rank_of(group: Any) -> int:
    return 0 if group is None else dist.get_rank(group)


def total(array: np.ndarray, group: Any) -> np.ndarray:
    """Sum over the ranks of an int64 array of one shape. Integers: the same whatever the order."""
    if group is None:
        return array
    tensor = torch.tensor(array, dtype=torch.int64, device=_device(group))  # a copy: all_reduce works in place
    dist.all_reduce(tensor, group=group)
    return tensor.cpu().numpy()


def gather(array: np.ndarray, group: Any) -> list[np.ndarray]:
    """Every rank's array, in rank order; first dimensions may differ, the rest and the dtype may not."""
    if group is None:
        return [array]
    device = _device(group)
    lengths = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(dist.get_world_size(group))]
    dist.all_gather(lengths, torch.tensor([array.shape[0]], dtype=torch.int64, device=device), group=group)
    counts = [int(n) for n in lengths]
    mine = torch.zeros((max(counts), *array.shape[1:]), dtype=torch.from_numpy(array[:0]).dtype, device=device)
    mine[: array.shape[0]] = torch.from_numpy(np.ascontiguousarray(array)).to(device)
    received = [torch.empty_like(mine) for _ in counts]
    dist.all_gather(received, mine, group=group)
    return [part[:n].cpu().numpy() for part, n in zip(received, counts)]


def gather_strings(strings: list[str], group: Any) -> list[list[str]]:
    """Every rank's strings, in rank order (sent as JSON text)."""
    sent = np.frombuffer(json.dumps(strings).encode(), np.uint8).copy()
    return [json.loads(part.tobytes()) for part in gather(sent, group)]


def together(step: Callable[[], T], group: Any) -> T:
    """Run a step that may fail on this rank alone; then it raises on every rank, and none is left waiting."""
    if group is None:
        return step()
    error: Exception | None = None
    result: T | None = None
    try:
        result = step()
    except Exception as e:
        error = e
    failed = total(np.eye(dist.get_world_size(group), dtype=np.int64)[rank_of(group)] * (error is not None), group)
    if error is not None:
        raise error
    if failed.any():
        raise RuntimeError(f"evaluation failed on rank {int(np.argmax(failed))}; its own message says why")
    return result  # type: ignore[return-value]


def _device(group: Any) -> torch.device:
    return (
        torch.device("cuda", torch.cuda.current_device()) if "nccl" in dist.get_backend(group) else torch.device("cpu")
    )
