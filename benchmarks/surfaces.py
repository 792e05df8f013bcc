"""A second test set from pictures of surfaces that you have: other grounds, other kinds of defects than the embedded set's.

    python benchmarks/surfaces.py NAME=PICTURE [NAME=PICTURE ...] --output DIR
    python benchmarks/surfaces.py @benchmarks/grounds.txt --pictures /usr/share/games --output DIR
    python benchmarks/evidence.py --data.format mvtec --data.root DIR

The second line makes `grounds` again, the third set, whose figures stand in docs/trials.md, from textures of two free games
(Debian's packages supertuxkart-data 1.4 and redeclipse-data 1.6.0, unpacked or installed).

For choosing defaults without looking at the embedded set. Each picture (512 pixels a side or more) becomes a category in MVTec AD's
layout: 64 good windows to train on, 24 good ones and five of every kind of defect to test on, 256 x 256. Training windows come from
the left half of the picture, test windows from the right one (both go round at top and bottom, as tileable textures do). The kinds
are smears, colour spots, dents, hairs, broken scratches, inclusions of another surface, shifted rectangles, stains and pits; they
share no code with training's simulation, the embedded set or the search. A picture is a function of the surfaces and its number.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage
from skimage.draw import line_aa

SIZE, SOURCE = 256, 512
GOOD, TEST_GOOD, EACH = 64, 24, 5
Rng = np.random.Generator
Damage = tuple[np.ndarray, np.ndarray]
ROWS, COLUMNS = np.mgrid[:SIZE, :SIZE]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, fromfile_prefix_chars="@"
    )
    parser.add_argument("surfaces", nargs="+", metavar="NAME=PICTURE", help="or @FILE, one of them a line")
    parser.add_argument("--pictures", type=Path, default=Path(), help="folder that the pictures' paths start from")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    for word in options.surfaces:
        if "=" not in word:
            parser.error(f"{word}: give a name to each picture, NAME=PICTURE.")
    surfaces = {name: surface(options.pictures / path) for name, _, path in (word.partition("=") for word in options.surfaces)}
    for number, name in enumerate(surfaces):
        write(options.output / name, name, number, surfaces)
        print(options.output / name)


def surface(path: Path) -> np.ndarray:
    """(SOURCE, SOURCE, 3) in [0, 1]; dark pictures are brought to a mean of 0.4."""
    picture = Image.open(path).convert("RGB")
    if min(picture.size) < SOURCE:
        raise SystemExit(f"{path}: {picture.size[0]} x {picture.size[1]} pixels; {SOURCE} a side are needed.")
    values = np.asarray(picture.resize((SOURCE, SOURCE * picture.size[1] // picture.size[0]))).astype(float) / 255
    return values if values.mean() >= 0.25 else np.clip(values * (0.4 / values.mean()), 0, 1)


def write(folder: Path, name: str, number: int, surfaces: dict[str, np.ndarray]) -> None:
    """One category."""
    ground = surfaces[name]
    others = [other for key, other in surfaces.items() if key != name] or [ground[::-1]]
    for part, count, test in (("train", GOOD, False), ("test", TEST_GOOD, True)):
        for i in range(count):
            rng = np.random.default_rng([number, 1 + test, i])
            save(camera(window(ground, rng, test), rng), folder / part / "good" / f"{i:03}.png")
    for k, (kind, damage) in enumerate(KINDS.items()):
        for i in range(EACH):
            rng = np.random.default_rng([number, 3 + k, i])
            picture, mask = damage(window(ground, rng, True), rng, others)
            save(camera(np.clip(picture, 0, 1), rng), folder / "test" / kind / f"{i:03}.png")
            save(mask.astype(float), folder / "ground_truth" / kind / f"{i:03}_mask.png")


def window(ground: np.ndarray, rng: Rng, test: bool) -> np.ndarray:
    """(SIZE, SIZE, 3) from the left or the right half, turned a little."""
    height, width = ground.shape[:2]
    low, high = (width // 2 + 2, width - 2) if test else (0, width // 2 - 2)
    side, angle = rng.uniform(215, 225), rng.uniform(-0.04, 0.04)
    column, row = rng.uniform(low + side * 0.53, high - side * 0.53), rng.uniform(0, height)
    v, u = (ROWS - SIZE / 2 + 0.5) * side / SIZE, (COLUMNS - SIZE / 2 + 0.5) * side / SIZE
    rows = row + v * np.cos(angle) - u * np.sin(angle)
    columns = np.clip(column + v * np.sin(angle) + u * np.cos(angle), low, high)
    return np.stack([ndimage.map_coordinates(c, [rows, columns], order=1, mode="grid-wrap") for c in np.moveaxis(ground, 2, 0)], 2)


def camera(picture: np.ndarray, rng: Rng) -> np.ndarray:
    """Gain, uneven light and noise of a sensor."""
    slope = rng.uniform(-0.06, 0.06, 2)
    light = rng.uniform(0.93, 1.07) * (1 + slope[0] * (2 * ROWS / SIZE - 1) + slope[1] * (2 * COLUMNS / SIZE - 1))
    return np.clip(picture * light[..., None] + rng.normal(0, rng.uniform(0.003, 0.008), picture.shape), 0, 1)


def save(picture: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((picture * 255 + 0.5).astype(np.uint8)).save(path)


# ------------------------------------------------------------------------------------------------------------- kinds


def smear(picture: np.ndarray, rng: Rng, others: list[np.ndarray]) -> Damage:
    spot, angle, reach = blob(rng, rng.uniform(16, 24)), rng.uniform(0, np.pi), rng.uniform(9, 14)
    steps = [(t * np.sin(angle), t * np.cos(angle), 0) for t in np.linspace(-reach, reach, 15)]
    moved = np.mean([ndimage.shift(picture, by, order=1, mode="nearest") for by in steps], 0)
    return mixed(picture, moved, 2 * spot), spot > 0.25


def colour(picture: np.ndarray, rng: Rng, others: list[np.ndarray]) -> Damage:
    spot, tint = blob(rng, rng.uniform(20, 30)), rng.normal(size=3)
    tint -= tint.mean() / 2
    tint *= 0.09 / abs(tint).max() * (1 + 3 * picture.std())
    return picture + tint * np.clip(1.5 * spot, 0, 1)[..., None], spot > 0.3


def dent(picture: np.ndarray, rng: Rng, others: list[np.ndarray]) -> Damage:
    (row, column), radius, angle = centre(rng), rng.uniform(14, 20), rng.uniform(0, 2 * np.pi)
    v, u = (ROWS - row) / radius, (COLUMNS - column) / radius
    slope = (v * np.sin(angle) + u * np.cos(angle)) * np.exp(-1.2 * (v**2 + u**2))
    return picture * (1 + rng.uniform(0.5, 0.75) * slope[..., None]), np.hypot(v, u) < 1.5


def hair(picture: np.ndarray, rng: Rng, others: list[np.ndarray]) -> Damage:
    line = drawn(path(rng, rng.uniform(60, 110), 0.25), rng.uniform(0.5, 0.8))
    return picture * (1 - 0.6 * line[..., None]) + 0.03 * line[..., None], line > 0.2


def broken_scratch(picture: np.ndarray, rng: Rng, others: list[np.ndarray]) -> Damage:
    line = drawn(path(rng, rng.uniform(70, 120), 0.02), 0.5) * (abs(np.sin(0.06 * (ROWS + COLUMNS))) > 0.3)
    return picture + (0.13 + 0.8 * picture.std()) * line[..., None], line > 0.2


def inclusion(picture: np.ndarray, rng: Rng, others: list[np.ndarray]) -> Damage:
    other = window(others[rng.integers(len(others))], rng, True)
    spot = blob(rng, rng.uniform(10, 16))
    return mixed(picture, other * (picture.mean() / other.mean()), 3 * spot), spot > 0.17


def shifted(picture: np.ndarray, rng: Rng, others: list[np.ndarray]) -> Damage:
    row, column = centre(rng, 50).astype(int)
    half = rng.integers(20, 34, 2)
    by = rng.integers(7, 14, 2) * rng.choice([-1, 1], 2)
    mask = (abs(ROWS - row) < half[0]) & (abs(COLUMNS - column) < half[1])
    return np.where(mask[..., None], np.roll(picture, tuple(by), (0, 1)), picture), mask


def stain(picture: np.ndarray, rng: Rng, others: list[np.ndarray]) -> Damage:
    spot = blob(rng, rng.uniform(18, 28))
    return picture * (1 - np.clip(1.6 * spot, 0, 1)[..., None] * (rng.uniform(0.13, 0.2) + picture.std())), spot > 0.25


def pits(picture: np.ndarray, rng: Rng, others: list[np.ndarray]) -> Damage:
    dark, place = np.zeros((SIZE, SIZE)), centre(rng, 60)
    for _ in range(rng.integers(2, 5)):
        dark = np.maximum(dark, np.clip(rng.uniform(2.5, 4.5) - np.hypot(ROWS - place[0], COLUMNS - place[1]), 0, 1))
        place = place + rng.normal(0, 12, 2)
    lip = np.roll(dark, (2, 2), (0, 1))
    return picture * (1 - 0.7 * dark[..., None]) + 0.1 * lip[..., None], (dark > 0.2) | (lip > 0.3)


KINDS: dict[str, Callable[[np.ndarray, Rng, list[np.ndarray]], Damage]] = {
    f.__name__: f for f in (smear, colour, dent, hair, broken_scratch, inclusion, shifted, stain, pits)
}


def centre(rng: Rng, margin: int = 45) -> np.ndarray:
    return rng.uniform(margin, SIZE - margin, 2)


def blob(rng: Rng, radius: float) -> np.ndarray:
    """(SIZE, SIZE) in [0, 1]: a spot with a ragged, soft edge."""
    row, column = centre(rng)
    noise = ndimage.gaussian_filter(rng.normal(size=(SIZE, SIZE)), radius * 0.45)
    far = np.hypot(ROWS - row, COLUMNS - column) / radius
    return np.clip(1.6 - 1.3 * far + 0.25 * noise / noise.std(), 0, 1) * (far < 1.6)


def mixed(picture: np.ndarray, other: np.ndarray, share: np.ndarray) -> np.ndarray:
    share = np.clip(share, 0, 1)[..., None]
    return picture * (1 - share) + other * share


def path(rng: Rng, length: float, bend: float) -> np.ndarray:
    """(40, 2) points of a wandering line."""
    heading = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, bend, 40))
    return centre(rng, 70) + np.cumsum(np.stack([np.sin(heading), np.cos(heading)], 1), 0) * length / 40


def drawn(points: np.ndarray, width: float) -> np.ndarray:
    """(SIZE, SIZE) in [0, 1]: a soft line through points (n, 2)."""
    line = np.zeros((SIZE, SIZE))
    for (r0, c0), (r1, c1) in zip(points[:-1].round().astype(int), points[1:].round().astype(int)):
        rows, columns, share = line_aa(r0, c0, r1, c1)
        inside = (rows >= 0) & (rows < SIZE) & (columns >= 0) & (columns < SIZE)
        np.maximum.at(line, (rows[inside], columns[inside]), share[inside])
    return np.clip(ndimage.gaussian_filter(line, width) * (1 + 2.2 * width), 0, 1)


if __name__ == "__main__":
    main()
