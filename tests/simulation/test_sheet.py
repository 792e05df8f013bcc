from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from bikd_fast.simulation import SimulationConfig, Simulator
from bikd_fast.simulation.sheet import COLUMNS, GAP, sheet


def test_sheet_shows_picture_corrupted_label_and_nuisance(pool: Tensor, tmp_path: Path) -> None:
    simulator = Simulator(SimulationConfig(foreground=False), pool)
    sheet(pool, simulator, tmp_path / "sheet.png", rows=5, seed=3)
    drawn = np.asarray(Image.open(tmp_path / "sheet.png"))
    size = pool.shape[-1]
    assert drawn.shape == (3 * (size + GAP), 2 * (len(COLUMNS) * (size + GAP) + 2 * GAP), 3)
    picture, corrupted, label = (drawn[20:size, j * (size + GAP) : j * (size + GAP) + size] for j in range(3))
    assert (picture == pool[0].permute(1, 2, 0).numpy()[20:]).all()
    marked = label[..., 0] > 0
    assert set(np.unique(label)) <= {0, 255}
    assert (picture[~marked] == corrupted[~marked]).all()
    before = (tmp_path / "sheet.png").read_bytes()
    sheet(pool, simulator, tmp_path / "again.png", rows=5, seed=3)
    assert (tmp_path / "again.png").read_bytes() == before
