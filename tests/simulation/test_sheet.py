from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from bikd_fast.simulation import SimulationConfig, Simulator
from bikd_fast.simulation.sheet import COLUMNS, GAP, sheet


def test_sheet_shows_picture_corrupted_label_and_nuisance(pool: Tensor, tmp_path: Path) -> None:
    simulator = Simulator(SimulationConfig(foreground=False), pool)
    sheet(pool, simulator, tmp_path / "sheet.png", rows=5, seed=2)
    drawn = np.asarray(Image.open(tmp_path / "sheet.png"))
    size = pool.shape[-1]
    wide, tall = len(COLUMNS) * (size + GAP) + 2 * GAP, size + GAP
    assert drawn.shape == (3 * tall, 2 * wide, 3)
    for i in range(5):
        row = drawn[i // 2 * tall : i // 2 * tall + size, i % 2 * wide :][20:]  # the kind's name is above
        picture, corrupted, label, nuisance = (row[:, j * (size + GAP) : j * (size + GAP) + size] for j in range(4))
        assert (picture == pool[i].permute(1, 2, 0).numpy()[20:]).all()
        assert set(np.unique(label)) <= {0, 255}
        marked = label[..., 0] > 0
        assert (picture[~marked] == corrupted[~marked]).all()
        assert marked.any() and (picture[marked] != corrupted[marked]).any(-1).mean() > 0.5
        noisy = (picture[~marked] != nuisance[~marked]).any(-1)
        assert noisy.mean() > 0.5 and np.abs(picture.astype(int) - nuisance).mean() < 20
    before = (tmp_path / "sheet.png").read_bytes()
    sheet(pool, simulator, tmp_path / "again.png", rows=5, seed=2)
    assert (tmp_path / "again.png").read_bytes() == before
