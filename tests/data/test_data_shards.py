"""Tar shards: the pictures inside are those outside, found by a table and not by unpacking."""

import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from bikd_fast.data import DataError, decode_image, load_images, load_masks, open_dataset, picture_size
from bikd_fast.data import shards as module
from bikd_fast.data.cache import identity, picture_key


@pytest.fixture
def root(tiny_mvtec, tmp_path, monkeypatch):
    """dots as two shards of good pictures and one of test pictures."""
    monkeypatch.setattr(module, "cache_folder", lambda: tmp_path / "cache")
    module._members.cache_clear()
    source, folder = tiny_mvtec / "dots", tmp_path / "set/dots"
    folder.mkdir(parents=True)
    good = sorted((source / "train/good").iterdir())
    pack(folder / "train-0.tar", {f"./{p.name}": p for p in good[:7]})
    pack(folder / "train-1.tar", {f"{p.name}": p for p in good[7:]})
    test = {f"{kind}/{p.name}": p for kind in ("good", "spot") for p in sorted((source / "test" / kind).iterdir())}
    masks = {f"spot/{p.name.replace('_mask', '.mask')}": p for p in sorted((source / "ground_truth/spot").iterdir())}
    pack(folder / "test.tar", {**test, **masks})
    return tmp_path / "set"


def pack(shard: Path, files: dict[str, Path]) -> None:
    with tarfile.open(shard, "w") as tar:
        for name, path in files.items():
            tar.add(path, name)


def test_the_same_pictures_masks_and_kinds_as_in_folders(root, tiny_mvtec):
    (shards,), (folders,) = open_dataset("shards", root), open_dataset("mvtec", tiny_mvtec, "dots")
    assert shards.name == "dots" and len(shards.train) == 12
    assert torch.equal(load_images(shards.train, 64)[0], load_images(folders.train, 64)[0])
    assert [(s.kind, s.label) for s in shards.test] == [(s.kind, s.label) for s in folders.test]
    assert torch.equal(load_images(shards.test, 64)[0], load_images(folders.test, 64)[0])
    assert all(np.array_equal(a, b) for a, b in zip(load_masks(shards.test), load_masks(folders.test)))
    assert picture_size(shards.train[0].path) == (64, 64)
    assert len(picture_key(shards.train, 64, "error")) == 24


def test_the_table_is_read_once(root, monkeypatch):
    first = open_dataset("shards", root)
    module._members.cache_clear()  # as another process
    monkeypatch.setattr(module, "_scan", lambda shard: pytest.fail("scanned again"))
    assert open_dataset("shards", root) == first


def test_a_set_is_itself_wherever_it_lies(root, tmp_path):
    (one,) = open_dataset("shards", root)
    root.rename(tmp_path / "moved")
    (two,) = open_dataset("shards", tmp_path / "moved")
    assert identity(one.train[:0]) == identity([]) and identity(two.train) != identity(two.train[1:])
    (tmp_path / "moved").rename(root)
    assert identity(one.train) == identity(open_dataset("shards", root)[0].train)


@pytest.mark.parametrize(
    ("name", "contents", "said"),
    [
        ("train-2.tar", b"no tar at all, but long enough to look into" * 40, "not a plain tar file"),
        ("test-2.tar", {"loose.png": "train/good/000.png"}, "lies in no folder"),
        ("test-2.tar", {"test/good/000.png": "train/good/000.png"}, r"test/good/000\.png: good has to be its first folder"),
        ("test-2.tar", {"spot/new.png": "train/good/000.png"}, "no mask beside it"),
        ("test-2.tar", {"spot/009.mask.png": "ground_truth/spot/000_mask.png"}, "a mask without its picture"),
    ],
)
def test_what_does_not_fit_is_named(root, tiny_mvtec, name, contents, said):
    if isinstance(contents, bytes):
        (root / "dots" / name).write_bytes(contents)
    else:
        pack(root / "dots" / name, {k: tiny_mvtec / "dots" / v for k, v in contents.items()})
    with pytest.raises(DataError, match=said):
        open_dataset("shards", root)


def spoil(place: int, contents: bytes):
    """A change of a shard's bytes."""
    return lambda shard: shard[:place] + contents + shard[place + len(contents) :]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda shard, at: spoil(at + 150, b"9")(shard), "no readable header at byte"),  # its checksum
        (lambda shard, at: spoil(at, bytes(512))(shard), "no readable header at byte"),  # a block that was lost
        (lambda shard, at: shard[:at], "without an end mark"),
        (lambda shard, at: shard[: at + 200], "without an end mark"),
        (lambda shard, at: shard[: at + 1600], "unexpected end of data"),
        (lambda shard, at: shard + shard, "no readable header at byte"),  # by cat
    ],
)
def test_a_shard_that_is_damaged_or_cut_at_a_header_loses_no_picture_in_silence(root, change, said):
    """tarfile itself takes such a header for the end of the archive."""
    shard = root / "dots/train-0.tar"
    with tarfile.open(shard) as tar:
        header = tar.getmembers()[4].offset
    whole = shard.read_bytes()
    shard.write_bytes(change(whole, header))
    for _ in range(2):  # nothing of it is kept
        with pytest.raises(DataError, match=said) as error:
            open_dataset("shards", root)
        assert str(shard) in str(error.value)
        module._members.cache_clear()
    shard.write_bytes(whole.rstrip(b"\0") + bytes(-len(whole.rstrip(b"\0")) % 512 + 512))  # one block of zeros is enough
    assert len(module.members(shard)) == 7


def test_a_member_that_is_gone_is_named(root):
    with pytest.raises(DataError, match=r"train-0.tar: no 999.png"):
        decode_image(root / "dots/train-0.tar/999.png")
    with pytest.raises(DataError, match="no such file"):
        decode_image(root / "dots/train-9.tar/000.png")
    with pytest.raises(DataError, match=r"no train\*.tar"):
        open_dataset("shards", root.parent / "cache")
