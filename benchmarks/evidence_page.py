"""docs/evidence.md from benchmarks/results/evidence.csv: nobody types a figure, and what was not run is called so."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

from evidence_words import HEADER, MVTEC_AD, PUBLISHED_BY_ARM, STRUCTURE, WHAT, published

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/evidence.md"
BASE = "bikd"
KIND = "auroc:"
ARCHITECTURES = {"x86_64", "aarch64", "arm64"}  # what older rows have for a processor
Row = dict[str, str]

ALL_STEPS = (BASE, "f-only", "stpm", "rd", "bank")  # every other arm has half of them
HALF = "half-steps"
COMPARED = (  # end of the title after the name of the arm compared with, which arms
    (BASE, "", (*ALL_STEPS, HALF)),
    (HALF, ": all with half the steps", tuple(arm for arm in WHAT if arm not in ALL_STEPS)),
)
BEFORE_DENTS = {"31bd773", "89f56fd"}  # commits of rows older than simulated dents


def write(rows: Sequence[Row], arms: Sequence[str]) -> None:
    """Write docs/evidence.md from all rows of the CSV; ``arms`` in the order of the page."""
    parts = [HEADER]
    if not rows:
        parts.append("No arm has been run so far.")
    for data, named, options in dict.fromkeys(map(_set_of, rows)):
        title = f"## {data}" + (f", categories {named}" if named else "") + (f", with `{options}`" if options else "")
        parts += [title, *section([row for row in rows if _set_of(row) == (data, named, options)], arms)]
    parts.append("## Position and structure\n\n" + STRUCTURE)
    parts.append("## Published figures on MVTec AD, as published\n\n" + published())
    parts.append(
        "Another data set, other teachers and other budgets than above: no row of ours is comparable with them until this page\n"
        "holds a section of MVTec AD, which `python benchmarks/evidence.py --data.format mvtec --data.root DIR` makes; there they\n"
        "stand beside ours."
    )
    PAGE.write_text("\n\n".join(parts) + "\n")


def _set_of(row: Row) -> tuple[str, str, str]:
    return row["data"], row["categories"], row.get("options", "")


def section(rows: Sequence[Row], arms: Sequence[str]) -> list[str]:
    """The tables of one data set."""
    means = {arm: _of(rows, arm, "mean") for arm in arms}
    run = [arm for arm in arms if means[arm]]
    missing = [arm for arm in arms if not means[arm]]
    categories = sorted({row["category"] for row in rows} - {"mean"})
    kinds = sorted({key for row in rows for key, value in row.items() if key.startswith(KIND) and value})
    parts = [_arms(run, means)]
    if missing:
        parts.append(f"Not run: {', '.join(missing)}.")
    if set(categories) <= MVTEC_AD:
        parts.append("### Beside what is published on MVTec AD\n\n" + _beside(run, means, categories))
    parts += [f"### Against {title}\n\n" + _differences(those, means, against) for title, against, those in comparisons(run)]
    parts.append("### Image AUROC by category\n\n" + _grid(run, categories, lambda a, c: _values(_of(rows, a, c), "image_auroc")))
    names = [key.removeprefix(KIND).replace("_", " ") for key in kinds]
    table = _grid(run, kinds, lambda a, k: _values(means[a], k), names)
    parts.append("### Image AUROC by kind of defect\n\nEach kind against all good pictures, mean over categories.\n\n" + table)
    if BASE in run:
        by_category = [(c, _of(rows, BASE, c)) for c in categories]
        lines = _head(["category", *names]) + [_line([c, *(_percent(_values(r, k)) for k in kinds)]) for c, r in by_category]
        parts.append(f"### {BASE}: image AUROC by category and kind\n\n" + "\n".join(lines))
    parts.append("### Is anything no better than chance?\n\n" + _structure(rows, run, categories, kinds))
    parts.append("### Diagnostics\n\n" + _diagnostics(run, means))
    parts.append(_provenance(rows))
    return parts


def comparisons(run: Sequence[str]) -> list[tuple[str, str, list[str]]]:
    """(end of the title, with which arm, which arms) for the arms that were run; none where nothing can be compared."""
    found = []
    for against, what, those in COMPARED:
        compared = [arm for arm in run if arm in those and arm != against]
        if compared:
            found.append((against + what, against, compared))
    return found


def _arms(run: Sequence[str], means: dict[str, list[Row]]) -> str:
    keys = {"image_auroc": "image AUROC", "image_ap": "image AP", "pixel_auroc": "pixel AUROC", "pixel_ap": "pixel AP"}
    keys["aupro"] = "AUPRO"
    lines = _head(["arm", "what", *keys.values(), "training, s", "peak, MB", "seeds"])
    for arm in run:
        cells = [_percent(_values(means[arm], key)) for key in keys]
        seconds, peak = _values(means[arm], "train_seconds"), _values(means[arm], "train_peak_mb")
        cost = [_plain(seconds, "{:.0f}"), _plain(peak, "{:.0f}")]
        lines.append(_line([f"**{arm}**" if arm == BASE else arm, WHAT.get(arm, ""), *cells, *cost, _seeds(means[arm])]))
    lines.append(
        "\nTraining: from pictures in memory to thresholds, added up over the categories, whichever rank trained them. Peak: of\n"
        "the process that trains, Python and libraries included. Arms need not have been measured on one processor, and seconds\n"
        "of different ones are not comparable: at most those of arms in one line of the list that ends this section."
    )
    return "\n".join(lines)


def _differences(run: Sequence[str], means: dict[str, list[Row]], against: str) -> str:
    if not means.get(against):
        return f"{against} itself was not run."
    keys = {"image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC", "aupro": "AUPRO"}
    lines = _head(["arm", *(f"{name}, points" for name in keys.values()), "exceeds the seed noise"])
    for arm in run:
        cells, beyond, common = [], [], 0
        for key, name in keys.items():
            ours, base = _by_seed(means[arm], key), _by_seed(means[against], key)
            pairs = [ours[s] - base[s] for s in sorted(ours.keys() & base.keys())]
            common = max(common, len(pairs))
            cells.append(f"{100 * statistics.fmean(pairs):+.2f}" if pairs else "")
            if exceeds(pairs, list(ours.values()), list(base.values())):
                beyond.append(name)
        verdict = ("in " + ", ".join(beyond) if beyond else "no") if common > 1 else "one seed: not judged"
        lines.append(_line([arm, *cells, verdict]))
    return "\n".join(lines)


def exceeds(differences: Sequence[float], ours: Sequence[float], base: Sequence[float]) -> bool:
    """Whether a mean difference over seeds is larger than both arms' standard deviations and has one sign for every seed."""
    if len(differences) < 2 or len(ours) < 2 or len(base) < 2:
        return False
    noise = max(statistics.stdev(ours), statistics.stdev(base))
    one_sign = all(d > 0 for d in differences) or all(d < 0 for d in differences)
    return one_sign and abs(statistics.fmean(differences)) > noise


def _beside(run: Sequence[str], means: dict[str, list[Row]], categories: Sequence[str]) -> str:
    """Our figures and the published ones of the method that an arm stands for, in one line each."""
    lines = _head(["arm", "image AUROC", "pixel AUROC", "AUPRO", "published: image AUROC", "pixel AUROC", "PRO", "their teacher"])
    for arm in (arm for arm in run if arm in PUBLISHED_BY_ARM):
        ours = [_percent(_values(means[arm], key)) for key in ("image_auroc", "pixel_auroc", "aupro")]
        lines.append(_line([arm, *ours, *PUBLISHED_BY_ARM[arm]]))
    few = f"\n\nOurs is of {len(categories)} of the 15 categories." if len(categories) < len(MVTEC_AD) else ""
    return "\n".join(lines) + few


def _structure(rows: Sequence[Row], run: Sequence[str], categories: Sequence[str], kinds: Sequence[str]) -> str:
    """Where good pictures come nearest to scoring above defects, in words made from the rows."""
    found, low = [], []
    for arm in run:
        each = {c: _values(_of(rows, arm, c), "image_auroc") for c in categories}
        known = {c: values for c, values in each.items() if values}
        of_kinds = {(c, k): _values(_of(rows, arm, c), k) for c in categories for k in kinds}
        below = [
            f"{k.removeprefix(KIND).replace('_', ' ')} on {c} ({_percent(values)})"
            for (c, k), values in of_kinds.items()
            if values and statistics.fmean(values) <= 0.5
        ]
        if below:
            low.append(f"- {arm}: {', '.join(below)}")
        if known:
            worst = min(known, key=lambda c: statistics.fmean(known[c]))
            found.append((statistics.fmean(known[worst]), f"{arm} on {worst} ({_percent(known[worst])})"))
    chance = [text for value, text in found if value <= 0.5]
    said = f"At or below chance: {', '.join(chance)}." if chance else "No arm is at or below chance on any category."
    weakest = "; ".join(text for _, text in sorted(found))
    kind = "No kind of defect is, on any category." if not low else "Single kinds of defects that are, on single categories:"
    said = f"{said} The weakest category of every arm, from the weakest up: {weakest}.\n\n{kind}"
    return said + ("\n\n" + "\n".join(low) if low else "")


def _diagnostics(run: Sequence[str], means: dict[str, list[Row]]) -> str:
    keys = {
        "held_out:drift": "drift d(T, E)",
        "held_out:spread_backbone": "spread E",
        "held_out:spread_teacher": "spread T",
        "held_out:spread_student": "spread S",
        "held_out:normal": "d(T, S), held-out normals",
        "simulated:defect": "d(T, S), simulated defects",
        "test:normal": "d(T, S), test normals",
        "test:defect": "d(T, S), real defects",
        "test:defect_backbone": "d(E, S), real defects",
    }
    shown = [arm for arm in run if any(_values(means[arm], key) for key in keys)]
    if not shown:
        return "None recorded."
    lines = _head(["arm", *keys.values()])
    lines += [_line([arm, *(_plain(_values(means[arm], key), "{:.3f}") for key in keys)]) for arm in shown]
    lines.append(
        "\nd is 1 - cos at a position, averaged over positions, then levels, then categories and seeds. A spread is the root mean\n"
        "square distance of unit features from their mean: 0 would be a collapse. Real defects: inside the masks of the test\n"
        "pictures; nothing is chosen by them. Simulated defects are those that the arm is trained with."
    )
    older = [a for a in shown if any(row["commit"] in BEFORE_DENTS for row in means[a])]
    if older:
        lines.append(f"They are without dents, because measured before there were any, in {', '.join(older)}: not those of {BASE}.")
    return "\n".join(lines)


def _provenance(rows: Sequence[Row]) -> str:
    def every(key: str) -> str:
        return ", ".join(sorted({row[key] for row in rows if row.get(key)}))

    together: dict[tuple[str, ...], dict[str, None]] = {}
    for row in rows:
        key = tuple(row.get(name, "") for name in ("date", "commit", "device", "cpus", "ranks", "threads"))
        together.setdefault(key, {})[row["arm"]] = None
    lines = [
        f"Python {every('python')}, torch {every('torch')}, timm {every('timm')}, DeepSpeed {every('deepspeed')}.",
        "Measured, by date and commit (+: with changes that were not committed):\n",
    ]
    for (date, commit, device, cpus, ranks, threads), arms in sorted(together.items()):
        machine = f"{device} (which processor was not recorded)" if device in ARCHITECTURES else device
        lines.append(f"- {date}, {commit}, {machine}, {cpus} cores, ranks: {ranks}, threads a rank: {threads}: {', '.join(arms)}")
    return "\n".join(lines)


def _grid(arms: Sequence[str], columns: Sequence[str], values, names: Sequence[str] | None = None) -> str:
    lines = _head(["arm", *(names or columns)])
    lines += [_line([arm, *(_percent(values(arm, column)) for column in columns)]) for arm in arms]
    return "\n".join(lines)


def _of(rows: Iterable[Row], arm: str, category: str) -> list[Row]:
    return [row for row in rows if row["arm"] == arm and row["category"] == category]


def _by_seed(rows: Sequence[Row], key: str) -> dict[int, float]:
    return {int(row["seed"]): float(row[key]) for row in rows if row.get(key)}


def _values(rows: Sequence[Row], key: str) -> list[float]:
    return list(_by_seed(rows, key).values())


def _percent(values: Sequence[float]) -> str:
    if not values:
        return ""
    spread = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.fmean(values):.1f}{spread}"


def _plain(values: Sequence[float], form: str) -> str:
    return form.format(statistics.fmean(values)) if values else ""


def _seeds(rows: Sequence[Row]) -> str:
    return ", ".join(sorted({row["seed"] for row in rows}, key=int))


def _head(names: Sequence[str]) -> list[str]:
    return [_line(names), "|---" * len(names) + "|"]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
