"""Which pictures the page shows, and how each becomes a card: mistakes first, every kind at least once."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bikd_fast.report.judge import FALSE_ALARM, MISSED, errors, outcomes
from bikd_fast.report.overlay import heat_range
from bikd_fast.report.pictures import fit, heat_uri, map_outline, mask_outline, picture_uri
from bikd_fast.report.run_folder import Predictions

SIDE, QUALITY = 384, 74


@dataclass(frozen=True)
class Card:
    row: int  # position in the category's predictions
    path: str
    name: str
    kind: str
    defect: bool
    outcome: str
    score: float
    error: float
    width: int
    height: int
    picture: str  # data URI, "" where the file could not be read
    heat: str  # data URI, "" where no map was kept
    found: str  # SVG path of map >= threshold
    truth: str  # SVG path of the ground truth
    note: str  # what could not be shown

    @property
    def bytes(self) -> int:
        return 2000 + sum(map(len, (self.picture, self.heat, self.found, self.truth, self.path)))


def make_cards(found: Predictions, base: Path, *, limit: int, budget: int) -> tuple[list[Card], int]:
    """At most `limit` cards of at most `budget` bytes in all, worst mistakes first; how many pictures were unreadable.

    Relative paths are looked up from the working directory, then from base (the run folder).
    """
    low, high = (0.0, 1.0) if found.map is None else heat_range(found.map, found.label, found.pixel_threshold)
    error, outcome = errors(found), outcomes(found)
    cards: list[Card] = []
    for at in choose(found, error, outcome, limit):
        card = _card(found, at, base, outcome[at], float(error[at]), low, high)
        budget -= card.bytes
        if budget < 0:
            break
        cards.append(card)
    cards.sort(key=lambda card: -card.error)
    return cards, sum(not card.picture for card in cards)


def choose(found: Predictions, error: np.ndarray, outcome: list[str], limit: int) -> list[int]:
    """At most `limit` positions, the most important first.

    The worst mistakes of both sorts by turns, one typical picture of each kind, then what came closest to a mistake."""
    worst = np.argsort(-error, kind="stable").tolist()
    missed = [at for at in worst if outcome[at] == MISSED]
    alarms = [at for at in worst if outcome[at] == FALSE_ALARM]
    typical = []
    for kind in dict.fromkeys(found.kind):
        right = [at for at in worst if found.kind[at] == kind and outcome[at] not in (MISSED, FALSE_ALARM)]
        typical += right[len(right) // 2 :][:1]
    mistakes = _by_turns(missed, alarms)
    kept = max(limit - len(typical), limit // 2)  # mistakes alone never crowd out the typical ones
    order = dict.fromkeys([*mistakes[:kept], *typical, *mistakes[kept:], *worst])
    return list(order)[:limit]


def find_file(path: str, base: Path) -> Path:
    """The path itself, or below base where only that exists."""
    direct = Path(path)
    return direct if direct.is_absolute() or direct.exists() or not (base / direct).exists() else base / direct


def read_mask(found: Predictions, at: int, base: Path, shape: tuple[int, int] | None) -> np.ndarray | None:
    """bool (H, W) of a defect; None where it has no mask file. Raises DataError (a ValueError) where the file can't be read."""
    if not found.mask_path[at]:
        return None
    from bikd_fast.data import decode_mask  # not above: it brings torch, which overlays and tables do without

    return decode_mask(find_file(found.mask_path[at], base), shape)


def _card(found: Predictions, at: int, base: Path, outcome: str, error: float, low: float, high: float) -> Card:
    from bikd_fast.data import decode_image  # not above: as in read_mask

    notes, picture, mask, heat, outline = [], None, None, "", ""
    try:
        picture = decode_image(find_file(found.path[at], base))
    except (OSError, ValueError):
        notes.append("picture not readable: moved or removed since the run")
    try:
        mask = read_mask(found, at, base, None if picture is None else picture.shape[:2])
    except (OSError, ValueError):
        notes.append("ground-truth mask not readable")
    shape = picture.shape if picture is not None else mask.shape if mask is not None else (SIDE, SIDE)
    size = fit(shape[1], shape[0], SIDE)
    if found.label[at] and not found.mask_path[at]:
        notes.append("no ground-truth mask for this picture")
    if found.map is None:
        notes.append("no map was kept")
    else:
        try:
            heat = heat_uri(found.map[at], size, low=low, high=high)
            outline = map_outline(found.map[at], size, found.pixel_threshold)
        except ValueError as problem:
            notes.append(str(problem))
    return Card(
        at,
        found.path[at],
        Path(found.path[at]).name or found.path[at],
        found.kind[at],
        bool(found.label[at]),
        outcome,
        float(found.score[at]),
        error,
        *size,
        "" if picture is None else picture_uri(picture, size, QUALITY),
        heat,
        outline,
        "" if mask is None else mask_outline(mask, size),
        "; ".join(notes),
    )


def _by_turns(one: list[int], two: list[int]) -> list[int]:
    both = min(len(one), len(two))
    return [at for pair in zip(one, two) for at in pair] + one[both:] + two[both:]
