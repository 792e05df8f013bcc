"""Freed memory stays while a command runs, and goes back afterwards."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's heap")
ROOT = Path(__file__).resolve().parents[1]
TURNS = 30
BLOCK = 48 << 20  # above 32 MiB glibc always asks the system
PROGRAM = f"""
import json, resource
import torch
from bikd_fast.heap import kept

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range({TURNS}):
        torch.ones({BLOCK} // 4)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

before = faults()
with kept():
    torch.ones({BLOCK} // 4)
    inside, held = faults(), resident()
print(json.dumps(dict(before=before, inside=inside, given_back=held - resident(), after=faults())))
"""


def run(**variables: str) -> dict[str, int]:
    plain = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_") and k != "GLIBC_TUNABLES"}
    plain |= {"PYTHONPATH": f"{ROOT}:{ROOT / 'kernels'}", **variables}
    return json.loads(subprocess.run([sys.executable, "-c", PROGRAM], env=plain, capture_output=True, text=True, check=True).stdout)


PAGES = BLOCK // os.sysconf("SC_PAGE_SIZE")


def test_memory_is_asked_for_a_few_times_and_given_back() -> None:
    """A freed block may be one small neighbour too short for the next: up to eight lie side by side (glibc before 2.39).

    Afterwards a block is cleared by the system at least once, as its memory had gone back. How often more is glibc's affair: a gap
    in the heap that fits is taken before the system is asked, and stays when it is freed below what is in use.
    """
    found = run()
    if found["before"] < TURNS * PAGES:
        pytest.skip("no page faults without it either: huge pages, or another malloc")
    assert found["inside"] < 10 * PAGES
    assert found["given_back"] > BLOCK // 2
    assert found["after"] > PAGES // 2


SET = [{"MALLOC_ARENA_TEST": "8"}, {"GLIBC_TUNABLES": "glibc.malloc.arena_test=8"}]


@pytest.mark.parametrize("variables", SET, ids=["variable", "tunable"])
def test_a_malloc_that_was_set_by_the_environment_is_let_be(variables: dict[str, str]) -> None:
    found = run(**variables)
    assert abs(found["inside"] - found["before"]) < PAGES
