"""Where Triton cannot be imported everything runs on the plain operators, and whoever insists on Triton is told."""

import subprocess
import sys

PROGRAM = """
import sys
sys.modules["triton"] = sys.modules["triton.language"] = None
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name.startswith("triton") else find(name, *rest)
import torch
import bikd_kernels
import bikd_kernels.map_launch
teacher, student = ([torch.randn(2, 8, 4, 4, requires_grad=True)] for _ in range(2))
bikd_kernels.cosine_discrepancy(teacher, student).backward()
regions = bikd_kernels.region_maps(torch.rand(2, 32, 32) < 0.3, [(4, 4)])
frozen = [x.detach() for x in teacher]
loss, _ = bikd_kernels.bidirectional_loss(frozen, frozen, student, student, regions)
picture, score = bikd_kernels.anomaly_map(frozen, [x.detach() for x in student], (16, 16), sigma=1.0)
assert torch.isfinite(loss) and student[0].grad.abs().sum() > 0 and picture.shape == (2, 16, 16)
try:
    bikd_kernels.cosine_discrepancy(teacher, student, impl="triton")
except RuntimeError as error:
    assert "Triton is not installed" in str(error), error
else:
    raise SystemExit("nobody objected")
from bikd_fast import Detector
"""


BROKEN = """
import importlib
load = importlib.import_module
def fail(name, *rest, **more):
    if name == "triton.language":
        raise OSError("a library does not load")
    return load(name, *rest, **more)
importlib.import_module = fail
import torch
import bikd_kernels
x = [torch.randn(1, 2, 2, 2)]
assert bikd_kernels.cosine_discrepancy(x, x) < 1e-6
try:
    bikd_kernels.cosine_discrepancy(x, x, impl="triton")
except RuntimeError as error:
    assert "Triton cannot be imported (OSError: a library does not load)" in str(error), error
else:
    raise SystemExit("nobody objected")
"""


def test_a_triton_that_is_broken_is_not_there() -> None:
    done = subprocess.run([sys.executable, "-c", BROKEN], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]


def test_everything_is_there_without_it() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
