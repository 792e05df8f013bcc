"""Machine code of the kernel of harmless noise beyond the table's numbers (test_aot_table.py): pictures move 16 bytes a thread."""

import re

import pytest
from bikd_kernels.dispatch import HAS_TRITON, INTERPRETED

if not HAS_TRITON or INTERPRETED:
    pytest.skip("compiles with Triton, not with its interpreter", allow_module_level=True)

from aot_others import compiled_draw


@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "sm_100"])
def test_noise_reads_and_writes_pictures_wide(arch: str) -> None:
    """The noise itself starts anywhere."""
    text = compiled_draw("nuisance_kernel", arch).asm["ptx"]
    assert len(re.findall(r"st\.global\.v4\.b32", text)) >= 1
    assert len(re.findall(r"ld\.global\.v4\.b32", text)) >= 1
