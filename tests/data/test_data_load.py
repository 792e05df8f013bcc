"""Samples become tensors in order; bad ones are told or counted; the mapped cache serves what decoding would."""

import hashlib
import os
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as F

import bikd_fast.data.load as load
from bikd_fast.data import DataError, Sample, decode_image, load_images, load_masks
from bikd_fast.data.cache import identity


@pytest.fixture
def samples(put):
    return [Sample(put(f"{i}.png", value=10 * i)) for i in range(6)]


def spoil(sample):
    sample.path.write_bytes(sample.path.read_bytes()[:40])


def values(images):
    return images[:, 0, 0, 0].tolist()


def test_order_type_and_size(samples):
    images, kept, skipped = load_images(samples, 4, threads=3)
    assert images.shape == (6, 3, 4, 4) and images.dtype == torch.uint8
    assert values(images) == [0, 10, 20, 30, 40, 50] and kept == samples and skipped == []


def test_resize_is_antialiased_bilinear(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "n.png")
    images, _, _ = load_images([Sample(tmp_path / "n.png")], 10)
    expected = F.resize(torch.from_numpy(pixels).permute(2, 0, 1), [10, 10], antialias=True)
    assert torch.equal(images[0], expected)


def test_first_bad_picture_in_order_is_named(samples):
    spoil(samples[2])
    spoil(samples[4])
    with pytest.raises(DataError, match=r"/2\.png"):
        load_images(samples, 4)


def test_skip_leaves_out_and_reports(samples):
    spoil(samples[0])
    spoil(samples[3])
    images, kept, skipped = load_images(samples, 4, on_bad_image="skip")
    assert values(images) == [10, 20, 40, 50]
    assert kept == [samples[i] for i in (1, 2, 4, 5)]
    assert [path for path, _ in skipped] == [samples[0].path, samples[3].path]
    assert all(path.name in reason for path, reason in skipped)


def test_skip_also_drops_a_bad_mask(samples, put_mask):
    samples[1] = Sample(samples[1].path, put_mask("m.png", (9, 9)), 1, "bent")
    _, kept, skipped = load_images(samples, 4, on_bad_image="skip")
    assert len(kept) == 5 and "the mask has 9 x 9" in skipped[0][1]
    assert len(load_images(samples, 4)[1]) == 6  # by default masks are load_masks' affair
    with pytest.raises(DataError, match=r"m\.png"):
        load_masks(samples)


def test_nothing_left_is_an_error(samples):
    for sample in samples:
        spoil(sample)
    with pytest.raises(DataError, match=r"none of the 6 pictures can be read; the first: .*0\.png"):
        load_images(samples, 4, on_bad_image="skip")


def test_unknown_policy(samples):
    with pytest.raises(ValueError, match="'ignore'"):
        load_images(samples, 4, on_bad_image="ignore")


def test_masks_at_their_own_size(samples, put, put_mask):
    defect = Sample(put("d.png", size=(5, 3)), put_mask("dm.png", (5, 3)), 1, "bent")
    masks = load_masks([samples[0], defect])
    assert [m.shape for m in masks] == [(6, 8), (3, 5)] and all(m.dtype == bool for m in masks)
    assert not masks[0].any() and masks[1].sum() == 6
    with pytest.raises(DataError, match=r"d\.png: a defect without a mask"):
        load_masks([Sample(defect.path, None, 1, "bent")])
    with pytest.raises(DataError, match=r"dm\.png"):
        load_masks([defect], sizes=[(4, 4)])
    with pytest.raises(DataError, match=r"dm\.png: marks 6 pixels of d\.png, which counts as good"):
        load_masks([Sample(defect.path, defect.mask_path)])


# ---- the mapped cache ----


def mapped(samples, folder, **options):
    return load_images(samples, 4, memory_limit=0, cache_dir=folder, **options)


def cache_files(folder):
    return sorted(f.name for f in folder.iterdir() if not f.name.startswith("."))


def test_small_sets_stay_in_memory(samples, tmp_path):
    load_images(samples, 4, memory_limit=6 * 3 * 16, cache_dir=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_cache_serves_without_decoding(samples, tmp_path, monkeypatch):
    first, kept, _ = mapped(samples, tmp_path / "cache")
    assert torch.equal(first, load_images(samples, 4)[0]) and kept == samples
    assert [name.rsplit(".")[1] for name in cache_files(tmp_path / "cache")] == ["json", "npy"]

    def fail(path):
        raise AssertionError(f"decoded {path} again")

    monkeypatch.setattr(load, "decode_image", fail)
    again, kept, _ = mapped(samples, tmp_path / "cache")
    assert torch.equal(again, first) and kept == samples
    again += 1  # writing to it changes this process's copy only
    assert torch.equal(mapped(samples, tmp_path / "cache")[0], first)


def test_cache_remembers_what_was_skipped(samples, tmp_path, monkeypatch):
    spoil(samples[2])
    first = mapped(samples, tmp_path / "cache", on_bad_image="skip")
    monkeypatch.setattr(load, "decode_image", None)
    again = mapped(samples, tmp_path / "cache", on_bad_image="skip")
    assert values(again[0]) == [0, 10, 30, 40, 50]
    assert again[1:] == first[1:] and again[2][0][0] == samples[2].path


def test_changed_picture_is_decoded_again(samples, tmp_path, put):
    mapped(samples, tmp_path / "cache")
    put("1.png", value=99)
    os.utime(samples[1].path, ns=(1, 1))
    assert values(mapped(samples, tmp_path / "cache")[0])[1] == 99


def test_damaged_cache_is_made_anew(samples, tmp_path):
    mapped(samples, tmp_path / "cache")
    (file,) = (tmp_path / "cache").glob("*.npy")
    file.write_bytes(file.read_bytes()[:150])
    assert values(mapped(samples, tmp_path / "cache")[0]) == [0, 10, 20, 30, 40, 50]


def test_failed_decoding_leaves_no_cache(samples, tmp_path):
    spoil(samples[5])
    with pytest.raises(DataError, match=r"5\.png"):
        mapped(samples, tmp_path / "cache")
    assert cache_files(tmp_path / "cache") == [] and not list((tmp_path / "cache").glob(".*-*/*"))


def test_cache_folder_that_cannot_be_written(samples, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match=r"file/cache: the picture cache can't be written"):
        mapped(samples, tmp_path / "file" / "cache")


def test_two_at_once_decode_once(samples, tmp_path, monkeypatch):
    """Each opens the lock file for itself, so threads exclude each other just as processes do."""
    decoded = []

    def slow(path):
        decoded.append(path)
        time.sleep(0.02)
        return decode_image(path)

    monkeypatch.setattr(load, "decode_image", slow)
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: mapped(samples, tmp_path / "cache")[0], range(2)))
    assert torch.equal(*both) and values(both[0]) == [0, 10, 20, 30, 40, 50]
    assert sorted(decoded) == sorted(s.path for s in samples)
    assert len(cache_files(tmp_path / "cache")) == 2


def test_names_that_are_not_utf8(put, tmp_path):
    raw = [b"\xff.png", "\u00fc.png".encode()]
    samples = [Sample(put(os.fsdecode(name))) for name in raw]
    images, _, _ = load_images(samples, 8, memory_limit=0, cache_dir=tmp_path / "cache")
    assert len(images) == 2 and len(list((tmp_path / "cache").glob("pictures-*.npy"))) == 1
    sizes = [sample.path.stat().st_size for sample in samples]
    said = b"".join(b"%s %d\n" % pair for pair in zip(raw, sizes)) + b"".join(s.path.read_bytes() for s in samples)
    assert identity(samples) == hashlib.sha256(said).hexdigest()[:24]
