"""Machine code of all kernels, compiled ahead of time and held against aot_table.json.

A representative part runs here; BIKD_AOT_FULL=1, or `python tests/kernels/aot.py`, compiles every row.
"""

import json
import os

import pytest
from bikd_kernels.dispatch import HAS_TRITON, INTERPRETED

if not HAS_TRITON or INTERPRETED:
    pytest.skip("compiles with Triton, not with its interpreter", allow_module_level=True)

import aot

PART = (
    "pair/sm_90/bf16/channels_last/256", "pair/sm_90/bf16/channels_last/resnet18", "pair/sm_90/bf16/nchw/64",
    "pair/sm_90/fp32/nchw/1024", "pair/sm_90/fp16/channels_last/1024", "pair/sm_80/bf16/channels_last/1024",
    "pair/sm_100/bf16/channels_last/64",
    "pair/gfx942/bf16/channels_last/256", "objective/sm_90/bf16/channels_last/wide_resnet50",
    "objective/sm_90/fp32/nchw/256", "objective/sm_80/bf16/channels_last/256", "objective/sm_100/fp32/channels_last/64",
    "pair both/sm_90/bf16/channels_last/resnet18", "pair weighted/sm_90/bf16/channels_last/resnet18",
    "objective student/sm_90/bf16/channels_last/resnet18", "objective unadapted/sm_90/bf16/channels_last/resnet18",
    "statistics/sm_90/bf16/nchw/64", "blend/sm_90/bf16/channels_last/1024",
)
WHOLE = ("flat/", "sum/", "scale/", "count/", "simulate ", "draw_kernel/", "shift_kernel/", "lay_out_kernel/", "nuisance_kernel/",
         "discrepancy/sm_90/bf16/", "discrepancy/sm_90/fp32/nchw/", "discrepancy/sm_80/", "map/")
LONG = ("map/sm_90/top 100", "map/sm_90/50 x 33 px")  # of the map's time these two take half
TABLE = json.loads(aot.TABLE.read_text())["rows"]
VARIANTS = dict(aot.variants())
NAMES = [n for n in VARIANTS if os.environ.get("BIKD_AOT_FULL") == "1" or n in PART or (n.startswith(WHOLE) and n not in LONG)]
# What may spill, and how many bytes: the plain map is held to 128 registers on sm_90, see map_launch.REGISTERS; in the objective
# without an adapter the compiler sends one value through memory of its own accord, found when its row was first written.
SPILLS = {"map/sm_90/plain": 32, "objective unadapted/sm_90/fp32/channels_last/resnet18": 8}


def test_the_table_is_complete_and_clean() -> None:
    """Every variant has a row; none spills but SPILLS; on NVIDIA the fused kernels move all 128 bits at a time but the objective in
    NCHW (4 positions a thread, 64 bits of a 16-bit type); their instructions fit the bandwidth."""
    assert TABLE.keys() == VARIANTS.keys()
    assert {n: row["spilled"] for n, row in TABLE.items() if row["spilled"]} == SPILLS
    fused = {n: row for n, row in TABLE.items() if n.split("/")[0] in aot.FLAGS}
    assert [n for n, row in fused.items() if "/sm_" in n
            and row["bits"] < (64 if "objective" in n and "/nchw/" in n else 128)] == []
    # lane-instructions an element that an H200 has time for while it moves the bytes (41 for 6 bytes): pair, objective
    budget = {"pair": {"bf16": 41, "fp16": 41, "fp32": 83}, "objective": {"bf16": 145, "fp16": 150, "fp32": 274}}
    over = [n for n, row in fused.items() if n.split("/")[0] in budget and "/sm_90/" in n and "/channels_last/" in n
            and row["instructions"] > budget[n.split("/")[0]][n.split("/")[2]]]
    assert over == []


@pytest.mark.parametrize("name", NAMES)
def test_no_worse_than_the_table(name: str) -> None:
    assert aot.regressions(name, VARIANTS[name](), TABLE[name]) == []


def test_a_regression_is_seen() -> None:
    good = {"registers": 40, "spilled": 0, "bits": 128, "instructions": 20.0}
    assert aot.regressions("x", good, good) == []
    for key, value in (("registers", 64), ("spilled", 8), ("bits", 32), ("instructions", 30.0)):
        assert len(aot.regressions("x", good | {key: value}, good)) == 1
