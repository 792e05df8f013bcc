"""What every module of kernel cases starts with: where it runs, when it cannot, and poison in what is not written."""

from collections.abc import Iterator

import pytest
import torch
from bikd_kernels.dispatch import HAS_TRITON, INTERPRETED

if INTERPRETED:
    from reduce_slices import install

    install()

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NEEDS_TRITON = pytest.mark.skipif(
    not HAS_TRITON or (DEVICE == "cpu" and not INTERPRETED), reason="needs a GPU, or TRITON_INTERPRET=1"
)


@pytest.fixture(autouse=True)
def poisoned() -> Iterator[None]:
    """Deterministic algorithms are on, so torch.empty is filled with NaN or the largest integer: what is not written shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(False)
