"""The tests' own reduction for the interpreter is the interpreter's to the bit."""

from types import SimpleNamespace

import numpy as np
import pytest
from bikd_kernels.dispatch import HAS_TRITON

pytestmark = pytest.mark.skipif(not HAS_TRITON, reason="Triton is not installed")


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("shape, axis", [((8,), 0), ((4, 8), 0), ((4, 8), 1), ((2, 4, 8), 0), ((2, 4, 8), 1), ((2, 4, 8), 2)])
def test_reduced_slice_by_slice_as_element_by_element(shape: tuple[int, ...], axis: int, keep: bool) -> None:
    import triton.language as tl
    from reduce_slices import reduce_slices
    from triton.runtime.interpreter import ReduceOps, TensorHandle

    def combine(a, b, c, d):  # the order of the first, and of what is kept of it, shows in its bits
        pack = ReduceOps(0, None, False).to_tensor
        half = a.handle.data * np.float32(0.7) + c.handle.data
        return pack(half, tl.float32), pack(np.maximum(b.handle.data, d.handle.data), tl.int32)

    def block(values, dtype):
        return tl.core.tensor(TensorHandle(values, dtype), tl.block_type(dtype, list(shape)))

    draw = np.random.default_rng(0)
    given = (
        block(draw.normal(size=shape).astype(np.float32), tl.float32),
        block(draw.integers(0, 99, shape).astype(np.int32), tl.int32),
    )
    operation = ReduceOps(axis, SimpleNamespace(fn=combine), keep)
    own, wanted = reduce_slices(operation, given), ReduceOps.generic_reduce(operation, given)
    for found, expected in zip(own, wanted, strict=True):
        assert np.array_equal(found.handle.data, expected.handle.data) and str(found.type) == str(expected.type)
        assert (found.handle.data.shape, found.handle.data.dtype) == (expected.handle.data.shape, expected.handle.data.dtype)
