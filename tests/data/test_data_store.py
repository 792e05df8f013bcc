"""Rows that fill as they are asked for: shared, checked, and never trusted without their checksum."""

import errno
import os

import numpy as np
import pytest
import torch
from PIL import Image

from bikd_fast.data import Sample, load_images
from bikd_fast.data.ahead import Ahead
from bikd_fast.data.store import Store


@pytest.fixture
def some(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(5):
        Image.fromarray(rng.integers(0, 255, (40, 50, 3), np.uint8)).save(tmp_path / f"{number}.png")
    return [Sample(tmp_path / f"{n}.png") for n in range(5)]


def test_rows_are_those_of_memory_decoded_once_a_machine(some, tmp_path):
    held = load_images(some, 32)[0]
    store = Store(some, 32, tmp_path / "cache")
    assert torch.equal(store.rows([3, 1, 3]), held[[3, 1, 3]]) and store.decoded == 2
    other = Store(some, 32, tmp_path / "cache")  # as another process
    assert torch.equal(other.rows(range(5)), held) and other.decoded == 3
    assert Store(some, 48, tmp_path / "cache").rows([0]).shape == (1, 3, 48, 48)


def test_a_damaged_row_is_read_again(some, tmp_path):
    held = load_images(some, 32)[0]
    Store(some, 32, tmp_path / "cache").rows(range(5))
    rows = next((tmp_path / "cache").glob("*.u8"))
    with rows.open("r+b") as file:
        file.seek(2 * 3 * 32 * 32 + 7)
        file.write(bytes([held[2].flatten()[7] ^ 1]))
        file.truncate(4 * 3 * 32 * 32 + 9)  # the last row is cut short
    store = Store(some, 32, tmp_path / "cache")
    assert torch.equal(store.rows(range(5)), held) and store.decoded == 2


def test_a_changed_file_is_another_set(some, tmp_path):
    Store(some, 32, tmp_path / "cache").rows([0])
    Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(some[0].path)
    assert int(Store(some, 32, tmp_path / "cache").rows([0]).max()) == 0


def test_a_full_disk_costs_time_only(some, tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    store = Store(some, 32, tmp_path / "cache")
    monkeypatch.setattr(os, "pwrite", full)
    assert torch.equal(store.rows([0, 0]), load_images(some[:1], 32)[0].expand(2, -1, -1, -1)) and store.decoded == 2
    assert capsys.readouterr().err.count("No space left") == 1


def test_steps_come_in_order_and_errors_with_their_step():
    def make(step):
        if step == 3:
            raise ValueError("step 3")
        return step

    ahead = Ahead(make, stop=6, depth=4, threads=3)
    assert [ahead.take(s) for s in (0, 1, 2)] == [0, 1, 2]
    with pytest.raises(ValueError, match="step 3"):
        ahead.take(3)
    assert ahead.take(5) == 5 and ahead.take(0) == 0  # forwards over a gap, and back
    ahead.close()
