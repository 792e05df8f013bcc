"""The Triton kernels' own cases in Triton's interpreter; on a machine with a GPU they run there themselves."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from bikd_kernels.dispatch import HAS_TRITON


@pytest.mark.timeout(900)  # under a minute of work, but minutes where the machine is shared
@pytest.mark.skipif(not HAS_TRITON, reason="Triton is not installed: the kernels are NOT tested here")
@pytest.mark.skipif(torch.cuda.is_available(), reason="the kernels' cases run on the GPU itself here")
@pytest.mark.parametrize("operator", ["fused", "anomaly_map", "simulate", "draw_defects", "nuisance", "simulator"])
def test_kernels_in_the_interpreter(operator: str) -> None:
    """TRITON_INTERPRET must be set before a kernel is defined, hence the process of its own."""
    folder = Path(__file__).parent.parent / ("simulation" if operator == "simulator" else "kernels")
    cases = str(folder / f"test_{operator}_triton.py")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", cases],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=880,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    summary = done.stdout.splitlines()[-1]
    assert "passed" in summary and "skipped" not in summary
