"""Writing the embedded data set: every picture from its own random stream, the whole set appearing at once."""

import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from bikd_fast.data.cache_folder import cache_folder
from bikd_fast.data.embedded.defects import DEFECTS
from bikd_fast.data.embedded.objects import biscuit, nut
from bikd_fast.data.embedded.raster import Rng
from bikd_fast.data.embedded.scene import Scene, photograph
from bikd_fast.data.embedded.sources import Parts, read_parts
from bikd_fast.data.embedded.surfaces import brick, grass, gravel, tiles
from bikd_fast.data.errors import DataError
from bikd_fast.data.lock import alone
from bikd_fast.data.threads import on_threads

VERSION = 7  # raise it whenever a picture would come out differently: the folder's name follows
SEED = 20260
COUNTS = {"train": 64, "good": 24, "defect": 5}  # pictures a category; defects are counted by kind

CATEGORIES: dict[str, Callable[[Rng, Parts], Scene]] = {
    "brick": brick,
    "grass": grass,
    "gravel": gravel,
    "tiles": tiles,
    "nut": nut,
    "biscuit": biscuit,
}


_LOOSE = ("grass", "gravel")  # ground of single pieces does not crack


def defect_kinds(category: str) -> list[str]:
    """The kinds of defect of a category, by name."""
    return [kind for kind in DEFECTS if kind != "crack" or category not in _LOOSE]


def render(category: str, split: str, kind: str, index: int, parts: Parts) -> tuple[np.ndarray, np.ndarray | None]:
    """One picture, uint8 (256, 256) or (256, 256, 3), and its mask, bool (256, 256), None for a normal one.

    The random stream depends on the names and the index only, so pictures may be made in any order and alone."""
    words = [int.from_bytes(word.encode()[:16].ljust(16, b"\0"), "little") for word in (category, split, kind)]
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([SEED, *words, index])))
    scene = CATEGORIES[category](rng, parts)
    if kind == "good":
        return _squeezed(photograph(rng, scene.picture)), None
    damaged, mask = DEFECTS[kind](rng, scene)
    return _squeezed(photograph(rng, scene.picture, damaged, mask)), mask


def _squeezed(picture: np.ndarray) -> np.ndarray:
    return picture[:, :, 0] if picture.shape[2] == 1 else picture


def ensure_textures(root: Path | None = None) -> Path:
    """The folder of the embedded set in MVTec AD's layout, written on first use (about ten seconds).

    root: the folder to keep it in, None for cache_folder(). Safe when several processes start at once: one writes,
    into a temporary folder that is renamed when complete, and the others wait.
    Raises DataError if root can't be written."""
    home = cache_folder(root)
    folder = home / f"textures-v{VERSION}"
    if (folder / "about.json").is_file():
        return folder
    try:
        home.mkdir(parents=True, exist_ok=True)
        with alone(home / f".textures-v{VERSION}.lock"):
            if not (folder / "about.json").is_file():
                print(f"writing the embedded data set to {folder}, once, in about ten seconds", file=sys.stderr)
                _write_whole(home, folder)
    except OSError as error:
        raise DataError(
            f"{folder}: the embedded pictures can't be written ({error.strerror or error}). Name another folder with "
            "--data.root."
        ) from error
    return folder


def _write_whole(home: Path, folder: Path) -> None:
    """write_textures under a temporary name in home, then renamed to folder."""
    draft = Path(tempfile.mkdtemp(prefix=f".textures-v{VERSION}-", dir=home))
    try:
        write_textures(draft)
        draft.chmod(0o755)
        if folder.exists() and not (folder / "about.json").is_file():
            shutil.rmtree(folder)  # someone has taken it apart
        draft.rename(folder)
    except OSError:
        if not (folder / "about.json").is_file():  # else another machine on the same disk was first
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def write_textures(folder: Path) -> None:
    """All categories into an existing folder, about.json last."""
    jobs = []
    for category in CATEGORIES:
        jobs += [(category, "train", "good", i) for i in range(COUNTS["train"])]
        jobs += [(category, "test", "good", i) for i in range(COUNTS["good"])]
        jobs += [(category, "test", kind, i) for kind in defect_kinds(category) for i in range(COUNTS["defect"])]
    for category, split, kind in {job[:3] for job in jobs}:
        (folder / category / split / kind).mkdir(parents=True, exist_ok=True)
        if kind != "good":
            (folder / category / "ground_truth" / kind).mkdir(parents=True, exist_ok=True)
    parts = {split: read_parts(split) for split in ("train", "test")}

    def write(number: int) -> None:
        category, split, kind, index = jobs[number]
        picture, mask = render(category, split, kind, index, parts[split])
        Image.fromarray(picture).save(folder / category / split / kind / f"{index:03d}.png", compress_level=1)
        if mask is not None:
            truth = folder / category / "ground_truth" / kind / f"{index:03d}_mask.png"
            Image.fromarray(mask.astype(np.uint8) * 255).save(truth, compress_level=1)

    for _ in on_threads(write, len(jobs), "writing the embedded pictures"):
        pass
    about = {"version": VERSION, "seed": SEED, "categories": list(CATEGORIES), "pictures": len(jobs)}
    (folder / "about.json").write_text(json.dumps(about, indent=1) + "\n")
