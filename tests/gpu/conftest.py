"""Makes the case modules of tests/kernels importable here: the same inputs and oracles, on the device."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "kernels"))
