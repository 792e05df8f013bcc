"""A small made-up run folder over real pictures (scikit-image's own), as training and evaluation would leave it.

`python tests/report/make_run.py FOLDER` writes one and its report, to look at.
"""

import json
import math
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage
from skimage import data

KINDS = ("scratch", "stain", "hole")
CONFIG = """# made up for the report's tests
model:
  backbone: tf_efficientnet_lite0
  student: small
data:
  format: textures
  size: 256
training:
  steps: 400
  batch: 16
  seed: 7
"""


def make_run(
    root: Path,
    *,
    categories: tuple[str, ...] = ("brick", "gravel"),
    normals: int = 6,
    defects: int = 6,
    side: int = 160,
    map_side: int = 48,
    threshold: float | None = 0.55,
    seed: int = 0,
) -> Path:
    """root/run and root/data; the last defect of each category is missed and the last normal picture a false alarm."""
    run = root / "run"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(CONFIG)
    environment = {
        "bikd_fast": "0.1.0",
        "git": "0123abc",
        "machine": {"cpu": "2 cores", "gpu": None},
        "wall_seconds": 81.5,
    }
    (run / "environment.json").write_text(json.dumps(environment))
    metrics: dict = {"categories": {}, "mean": {}}
    for number, name in enumerate(categories):
        folder = run / name if len(categories) > 1 else run
        folder.mkdir(exist_ok=True)
        rng = np.random.default_rng([seed, number])
        write_category(root / "data" / name, folder, name, rng, normals, defects, side, map_side, threshold)
        metrics["categories"][name] = {
            "image_auroc": 0.96 - 0.05 * number,
            "image_ap": 0.97 - 0.04 * number,
            "pixel_auroc": 0.981,
            "pixel_ap": 0.61,
            "aupro": math.nan if number == 1 else 0.914,
            "about": {"fpr_limit": 0.3, "images": normals + defects},
            "threshold": {
                "value": threshold,
                "method": "false_alarm_rate",
                "source": "held-out normal",
                "target": 0.05,
                "n": 40,
                "met": True,
                "promise": "From 40 held-out normal pictures: at most 4.88% of new ones raise an alarm",
            },
            "kinds": {kind: {"aupro": 0.9 - 0.1 * at} for at, kind in enumerate(KINDS)},
        }
    (run / "metrics.json").write_text(json.dumps(metrics))
    return run


def write_category(
    pictures: Path,
    folder: Path,
    name: str,
    rng: np.random.Generator,
    normals: int,
    defects: int,
    side: int,
    map_side: int,
    threshold: float | None,
) -> None:
    pictures.mkdir(parents=True)
    whole = getattr(data, name)()
    whole = whole if whole.ndim == 3 else np.repeat(whole[:, :, None], 3, axis=2)
    rows: dict[str, list] = {key: [] for key in ("path", "kind", "label", "score", "map", "mask_path")}
    for at in range(normals + defects):
        defect = at >= normals
        y, x = (int(rng.integers(0, size - side + 1)) for size in whole.shape[:2])
        picture = whole[y : y + side, x : x + side, :3].copy()
        mask = np.zeros((side, side), dtype=bool)
        kind = KINDS[at % len(KINDS)] if defect else "good"
        if defect:
            mask = draw_defect(rng, kind, side)
            colour = np.array({"scratch": (235, 232, 225), "stain": (96, 52, 30), "hole": (12, 12, 16)}[kind])
            picture[mask] = (0.25 * picture[mask] + 0.75 * colour).astype(np.uint8)
        path = pictures / f"{kind}_{at:03d}.png"
        Image.fromarray(picture).save(path)
        mask_path = ""
        if defect:
            mask_path = str(pictures / f"{kind}_{at:03d}_mask.png")
            Image.fromarray(mask.astype(np.uint8) * 255).save(mask_path)
        last = at in (normals - 1, normals + defects - 1)
        rows["map"].append(fake_map(rng, mask, map_side, weak=last and defect, spurious=last and not defect))
        rows["score"].append(rows["map"][-1].max())
        for key, value in (("path", str(path)), ("kind", kind), ("label", defect), ("mask_path", mask_path)):
            rows[key].append(value)
    value = np.float32(math.nan if threshold is None else threshold)
    np.savez_compressed(
        folder / "predictions.npz",
        path=np.array(rows["path"]),
        kind=np.array(rows["kind"]),
        mask_path=np.array(rows["mask_path"]),
        label=np.array(rows["label"], dtype=np.uint8),
        score=np.array(rows["score"], dtype=np.float32),
        map=np.array(rows["map"], dtype=np.float16),
        threshold=value,
    )
    write_log(folder / "log.jsonl", rng)


def draw_defect(rng: np.random.Generator, kind: str, side: int) -> np.ndarray:
    y, x = np.mgrid[:side, :side]
    cy, cx = rng.uniform(0.3, 0.7, 2) * side
    if kind == "scratch":
        angle, bend = rng.uniform(0, np.pi), rng.uniform(-0.004, 0.004)
        along = (x - cx) * np.cos(angle) + (y - cy) * np.sin(angle)
        across = -(x - cx) * np.sin(angle) + (y - cy) * np.cos(angle) + bend * along**2
        return (np.abs(across) < side / 90) & (np.abs(along) < side * 0.28)
    wobble = ndimage.gaussian_filter(rng.normal(size=(side, side)), side / 16)
    radius = side * (0.09 if kind == "hole" else 0.15)
    return np.hypot(x - cx, y - cy) + wobble / wobble.std() * radius * 0.25 < radius


def fake_map(rng: np.random.Generator, mask: np.ndarray, size: int, *, weak: bool, spurious: bool) -> np.ndarray:
    noise = ndimage.gaussian_filter(rng.normal(size=(size, size)), size / 24)
    map = 0.2 + 0.05 * noise / noise.std()
    seen = mask
    if spurious:
        seen = np.zeros_like(mask)
        seen[: mask.shape[0] // 6, -mask.shape[0] // 5 :] = True
    small = np.asarray(Image.fromarray(seen.astype(np.float32)).resize((size, size), Image.Resampling.BOX))
    bump = ndimage.gaussian_filter(small, size / 28)
    if bump.max() > 0:
        map = map + bump / bump.max() * (0.12 if weak else rng.uniform(0.5, 0.9))
    return map


def write_log(file: Path, rng: np.random.Generator, steps: int = 120) -> None:
    with file.open("w") as out:
        for step in range(0, 4 * steps, 4):
            forward = 0.1 + 0.8 * math.exp(-step / 90) + 0.02 * rng.normal()
            div = 0.5 * math.exp(-step / 160) + 0.01 * rng.normal()
            entry = {
                "step": step,
                "loss": forward + 0.3 * div,
                "lr": 1e-3 * (0.1 if step > 320 else 1),
                "pictures_per_second": 48 + rng.normal(),
                "terms": {"forward": forward, "div": div},
                "drift": 0.01 * step,
            }
            out.write(json.dumps(entry) + "\n")


if __name__ == "__main__":
    from bikd_fast.report import write_report

    made = make_run(
        Path(sys.argv[1]),
        categories=("brick", "gravel", "grass", "coffee"),
        normals=18,
        defects=24,
        side=224,
        map_side=64,
    )
    print(write_report(made))
