"""A quicker reduction for Triton's interpreter, which calls the combining function once an element: three quarters of what the
fused kernels' cases took there. Here it is called once for each place along the axis, in the same order, on all else at once."""

from __future__ import annotations

from typing import Any

import numpy as np
from triton.runtime.interpreter import ReduceOps


def reduce_slices(self: ReduceOps, given: tuple[Any, ...]) -> list[Any]:
    """As ReduceOps.generic_reduce along an axis, to the same bits: what Triton takes as a combining function works on each element
    by itself."""
    data = [np.moveaxis(x.handle.data, self.axis, 0) for x in given]
    total = [d[0] for d in data]
    for place in range(1, len(data[0])):
        left, right = ([self.to_tensor(v, x.dtype) for v, x in zip(half, given)] for half in (total, [d[place] for d in data]))
        combined = self.combine_fn.fn(*left, *right)
        combined = combined if isinstance(combined, tuple) else (combined,)
        total = [np.asarray(c.handle.data).reshape(d.shape[1:]).astype(d.dtype) for c, d in zip(combined, data)]
    if self.keep_dims:
        total = [np.expand_dims(t, self.axis) for t in total]
    return [self.to_tensor(t, x.dtype) for t, x in zip(total, given)]


def install() -> None:
    ReduceOps.generic_reduce = reduce_slices
