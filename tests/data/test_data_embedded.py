"""The embedded set: the same on every run, train and test apart, defects where their masks say and nowhere else."""

import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import bikd_fast.data.embedded.build as build
from bikd_fast.data import DataError, load_masks, open_dataset
from bikd_fast.data.embedded.build import CATEGORIES, defect_kinds, ensure_textures, render, write_textures
from bikd_fast.data.embedded.defects import DEFECTS
from bikd_fast.data.embedded.scene import photograph
from bikd_fast.data.embedded.sources import PARTS, cut_parts, read_parts, read_source

HARD = {"faint_scratch", "low_contrast_stain", "local_warp", "turned_patch", "missing_part", "small_hole"}
FEW = {"train": 1, "good": 1, "defect": 1}
pairs = pytest.mark.parametrize(("category", "kind"), [(c, k) for c in CATEGORIES for k in defect_kinds(c)])


@pytest.fixture(scope="module")
def parts():
    return {split: read_parts(split) for split in ("train", "test")}


TWO = {name: CATEGORIES[name] for name in ("grass", "nut")}  # one with a kind less, one in colour


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(build, "COUNTS", FEW)
    monkeypatch.setattr(build, "CATEGORIES", TWO)


def test_what_the_set_holds():
    assert len(CATEGORIES) >= 6 and {"brick", "grass", "gravel", "tiles"} <= set(CATEGORIES)
    for category in CATEGORIES:
        assert set(defect_kinds(category)) >= HARD
        defects = len(defect_kinds(category)) * build.COUNTS["defect"]
        assert build.COUNTS["train"] >= 60 and build.COUNTS["good"] >= 20 and 30 <= defects <= 40


# ---- train and test share no pixel ----


def test_parts_do_not_touch():
    for name, boxes in PARTS.items():
        height, width = read_source(name).shape[:2]
        owner = np.zeros((height, width), int)
        for number, (left, top, right, bottom) in enumerate(boxes.values(), 1):
            assert 0 <= left < right <= width and 0 <= top < bottom <= height
            assert (owner[top:bottom, left:right] == 0).all(), f"{name}: parts overlap"
            owner[top:bottom, left:right] = number
        assert set(boxes) == {"train", "test"}


@pytest.mark.parametrize("category", CATEGORIES)
def test_pictures_depend_on_their_own_part_only(category):
    """Everything outside the training part is replaced by noise: training pictures stay, test pictures change."""
    photographs = {name: read_source(name) for name in PARTS}
    replaced = {}
    for name, pixels in photographs.items():
        left, top, right, bottom = PARTS[name]["train"]
        replaced[name] = np.random.default_rng(0).random(pixels.shape)
        replaced[name][top:bottom, left:right] = pixels[top:bottom, left:right]
    for split, same in (("train", True), ("test", False)):
        before, _ = render(category, split, "good", 0, cut_parts(split, photographs))
        after, _ = render(category, split, "good", 0, cut_parts(split, replaced))
        assert np.array_equal(before, after) == same


# ---- pictures and defects ----


@pytest.mark.parametrize("category", CATEGORIES)
def test_normal_pictures_vary_and_repeat(category, parts):
    first, mask = render(category, "train", "good", 0, parts["train"])
    assert mask is None and first.dtype == np.uint8 and first.shape[:2] == (256, 256)
    assert np.array_equal(first, render(category, "train", "good", 0, parts["train"])[0])
    other, _ = render(category, "train", "good", 1, parts["train"])
    assert np.abs(first.astype(int) - other).mean() > 4
    assert ((first == 0) | (first == 255)).mean() < 0.02, "over- or underexposed"


@pairs
def test_defect_is_in_its_mask_only_and_visible(category, kind, parts, monkeypatch):
    for index in range(2):
        made = {}

        def both(rng, clean, damaged=None, mask=None, made=made):
            state = rng.bit_generator.state
            made["clean"] = photograph(rng, clean)
            rng.bit_generator.state = state
            return photograph(rng, clean, damaged, mask)

        monkeypatch.setattr(build, "photograph", both)
        picture, mask = render(category, "test", kind, index, parts["test"])
        clean = made["clean"].reshape(picture.shape).astype(int)
        change = np.abs(picture.astype(int) - clean).reshape(256, 256, -1).max(axis=2)
        assert mask.dtype == bool and change[~mask].max() == 0
        assert 60 <= mask.sum() <= 0.16 * mask.size, "small to medium"
        assert change[mask].mean() > 3.5, "visible"
        assert (change[mask] > 0).mean() > 0.55, "the mask is no larger than the defect"


@pytest.mark.parametrize("category", ["nut", "biscuit"])
def test_objects_move_and_turn(category, parts):
    scenes = [CATEGORIES[category](np.random.default_rng(i), parts["train"]) for i in range(6)]
    centres = [np.argwhere(s.product > 0.5).mean(axis=0) for s in scenes]
    assert np.ptp(centres, axis=0).min() > 5
    assert np.ptp([s.angle for s in scenes]) > 1
    assert all(0.1 < (s.product > 0.5).mean() < 0.5 for s in scenes)


def test_warp_keeps_the_colours(parts):
    scene = CATEGORIES["tiles"](np.random.default_rng(3), parts["test"])
    warped, mask = DEFECTS["local_warp"](np.random.default_rng(4), scene)
    assert warped[mask].max() <= scene.picture.max() and warped[mask].min() >= scene.picture.min()
    assert np.abs(warped[mask].mean(axis=0) - scene.picture[mask].mean(axis=0)).max() < 0.03


def test_patch_is_the_surface_turned(parts):
    """Turning the inner part of the patch back by 90 degrees, one way or the other, gives the surface."""
    scene = CATEGORIES["gravel"](np.random.default_rng(5), parts["test"])
    damaged, mask = DEFECTS["turned_patch"](np.random.default_rng(6), scene)
    rows, columns = np.where(mask)
    inner = slice(rows.min() + 4, rows.max() - 3), slice(columns.min() + 4, columns.max() - 3)
    assert np.ptp(rows) == np.ptp(columns)
    errors = [np.abs(np.rot90(damaged[inner], k) - scene.picture[inner]).mean() for k in (0, 1, 2, 3)]
    assert min(errors[1], errors[3]) < 0.04 < min(errors[0], errors[2])


def test_training_knows_nothing_of_these_defects():
    package = Path(build.__file__).parents[2]
    users = [f for f in package.rglob("*.py") if "embedded" not in f.parts]
    importing = [f.name for f in users if re.search(r"embedded\.(defects|build|raster|scene)", f.read_text())]
    assert importing == []
    assert not any(
        "simulation" in re.findall(r"^(?:from|import) .*", f.read_text(), re.M) for f in package.rglob("embedded/*")
    )


# ---- on disk ----


def test_written_once_in_mvtec_layout(few, tmp_path):
    categories = open_dataset("textures", tmp_path, ["all"])
    (folder,) = [f for f in tmp_path.iterdir() if not f.name.startswith(".")]
    assert folder.name == f"textures-v{build.VERSION}"
    assert {c.name for c in categories} == set(TWO)
    for c in categories:
        assert len(c.train) == 1 and len(c.test) == 1 + len(defect_kinds(c.name))
        assert {s.kind for s in c.test if s.label} == set(defect_kinds(c.name))
    scratch = next(s for s in categories[0].test if s.kind == "faint_scratch")
    assert scratch.mask_path.name == scratch.path.stem + "_mask.png"
    assert load_masks([scratch])[0].any()
    assert json.loads((folder / "about.json").read_text())["seed"] == build.SEED
    stamp = scratch.path.stat().st_mtime_ns
    open_dataset("textures", tmp_path, ["nut"])
    assert scratch.path.stat().st_mtime_ns == stamp


def test_files_hold_what_render_makes(few, tmp_path, parts):
    folder = ensure_textures(tmp_path)
    picture, mask = render("nut", "test", "small_hole", 0, parts["test"])
    assert np.array_equal(np.asarray(Image.open(folder / "nut/test/small_hole/000.png")), picture)
    assert np.array_equal(np.asarray(Image.open(folder / "nut/ground_truth/small_hole/000_mask.png")) > 0, mask)


def test_interrupted_writing_leaves_nothing(few, tmp_path, monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(build, "render", interrupted)
        with pytest.raises(KeyboardInterrupt):
            ensure_textures(tmp_path)
    assert [f.name for f in tmp_path.iterdir() if not f.name.endswith(".lock")] == []
    assert (ensure_textures(tmp_path) / "about.json").is_file()


def test_folder_taken_apart_is_made_anew(few, tmp_path):
    folder = ensure_textures(tmp_path)
    (folder / "about.json").unlink()
    (folder / "nut/train/good/000.png").unlink()
    assert (ensure_textures(tmp_path) / "nut/train/good/000.png").is_file()


def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match=r"file/textures-v\d+: the embedded pictures can't be written.*--data\.root"):
        ensure_textures(tmp_path / "file")


def test_two_at_once_write_once(few, tmp_path, monkeypatch):
    """Each opens the lock file for itself, so threads exclude each other just as processes do."""
    writes = []

    def counted(folder):
        writes.append(folder)
        write_textures(folder)

    monkeypatch.setattr(build, "write_textures", counted)
    with ThreadPoolExecutor(2) as pool:
        folders = set(pool.map(ensure_textures, [tmp_path] * 2))
    assert folders == {tmp_path / f"textures-v{build.VERSION}"} and len(writes) == 1
    assert [f.name for f in tmp_path.iterdir() if f.name.startswith(".") and not f.name.endswith(".lock")] == []


def test_second_writer_without_locks_yields(few, tmp_path, monkeypatch):
    """On a disk without locks another machine may finish first: its folder stays and ours goes."""

    def overtaken(folder):
        write_textures(folder)
        theirs = tmp_path / f"textures-v{build.VERSION}"
        theirs.mkdir()
        (theirs / "about.json").write_text("theirs")

    monkeypatch.setattr(build, "write_textures", overtaken)
    assert (ensure_textures(tmp_path) / "about.json").read_text() == "theirs"
    assert [f.name for f in tmp_path.iterdir() if not f.name.endswith(".lock")] == [f"textures-v{build.VERSION}"]


def test_nothing_is_downloaded(tmp_path):
    """The set is made in a fresh process that has no network access in Python and never meets pooch."""
    code = (
        "import socket, sys\n"
        "def no(*a, **k): raise RuntimeError('network')\n"
        "socket.socket.connect = socket.create_connection = socket.getaddrinfo = no\n"
        "import bikd_fast.data.embedded.build as build\n"
        f"build.COUNTS = {FEW!r}\n"
        "build.CATEGORIES = {'nut': build.nut}\n"
        "print(build.ensure_textures())\n"
        "assert not {'pooch', 'skimage.data', 'deepspeed', 'ray'} & set(sys.modules)\n"
    )
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "bikd_fast" / f"textures-v{build.VERSION}")
