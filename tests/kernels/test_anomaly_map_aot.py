"""Machine code of the anomaly map kernels beyond the numbers of test_aot_table.py: tensor cores, wide loads, limits."""

import re

import pytest
from bikd_kernels.dispatch import HAS_TRITON, INTERPRETED

if not HAS_TRITON or INTERPRETED:
    pytest.skip("compiles with Triton, not with its interpreter", allow_module_level=True)

import triton
from aot_build import resources
from aot_others import BACKBONES, LAYOUTS, compiled_discrepancy, compiled_map
from bikd_kernels import map_launch


@pytest.mark.parametrize(("arch", "product"), [("sm_80", "mma.sync"), ("sm_90", "wgmma"), ("sm_100", "tcgen05.mma")])
def test_map_kernel_uses_the_tensor_cores(arch: str, product: str) -> None:
    assert product in compiled_map(arch).asm["ptx"]


def test_the_plain_map_is_compiled_with_the_registers_of_its_launch() -> None:
    """Four programs fit a multiprocessor of sm_90 because the compiler was told to; no other kernel is told."""
    limited = map_launch.map_options("sm_90", ahead=True)
    assert limited == dict(num_warps=4, maxnreg=map_launch.REGISTERS)
    assert map_launch.map_options("sm_90", ahead=False) == map_launch.map_options("sm_80", ahead=True) == dict(num_warps=4)
    registers, _ = resources(compiled_map("sm_90"))
    assert registers <= 65536 // (4 * 4 * 32)


@pytest.mark.skipif("amd" not in triton.backends.backends, reason="this triton has no AMD backend")
def test_map_kernel_compiles_for_amd_without_scratch_memory() -> None:
    assert re.search(r"\.private_segment_fixed_size:\s+0\b", compiled_map("gfx942").asm["amdgcn"])


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
@pytest.mark.parametrize("layout", [name for name, (teacher, student) in LAYOUTS.items() if teacher == student])
def test_every_load_of_features_is_wide_where_the_layouts_agree(dtype: str, layout: str) -> None:
    """16 features of a side at once in the first walk of every level; the second, which few blocks take, has a quarter of them."""
    compiled, _ = compiled_discrepancy("sm_90", dtype, layout, BACKBONES["resnet18"])
    loads = re.findall(r"ld\.global[^\s]*", compiled.asm["ptx"])
    size, levels = (2, 4)[dtype == "fp32"], len(BACKBONES["resnet18"])
    wide = [load for load in loads if ".v4.b32" in load]
    assert len(wide) >= levels * 2 * 16 * size // 16
    assert all(f".v{size}.b32" in load for load in loads if load not in wide), set(loads)
