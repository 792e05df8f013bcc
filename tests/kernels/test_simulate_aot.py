"""Machine code of simulate's kernels beyond the table's numbers (test_aot_table.py): pictures are read and written wide."""

import re

import pytest
from bikd_kernels.dispatch import HAS_TRITON, INTERPRETED

if not HAS_TRITON or INTERPRETED:
    pytest.skip("compiles with Triton, not with its interpreter", allow_module_level=True)

from aot_others import compiled_simulate


@pytest.mark.parametrize(("arch", "dtype"), [("sm_80", "fp32"), ("sm_90", "bf16"), ("sm_100", "fp32")])
def test_pictures_are_loaded_wide(arch: str, dtype: str) -> None:
    """Of the blend: the other kernels read pictures only inside outlines, pixel by pixel."""
    wide = r"ld\.global\.v4\.b32" if dtype == "fp32" else r"ld\.global\.v[24]\.b32"
    assert len(re.findall(wide, compiled_simulate("blend_kernel", arch, dtype).asm["ptx"])) >= 3
