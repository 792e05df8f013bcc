"""A plain folder of one's own pictures.

ROOT/good/*             normal pictures to train on; or straight in ROOT, where there is no folder good
ROOT/test_good/*        normal pictures to test on (optional; otherwise every fifth picture of good is held out)
ROOT/defects/*          defects (optional), of kind "defect"; or in sub-folders, whose names are their kinds
ROOT/masks/*            their masks (optional), at the same place, NAME.* or NAME_mask.*

Where ROOT holds neither good nor pictures, each of its sub-folders that holds good is a category."""

from pathlib import Path

from bikd_fast.data.errors import DataError
from bikd_fast.data.listing import list_pictures, match_masks, require_pictures, sub_folders
from bikd_fast.data.samples import Category, Sample

HELD_OUT = 5  # one in so many
PARTS = ("good", "test_good", "defects", "masks")


def find_folder(root: Path) -> dict[str, Path]:
    """The categories under root by name. Raises DataError if neither a picture nor a folder good is where it should be."""
    if (root / "good").is_dir() or list_pictures(root):
        return {root.resolve().name: root}
    if any((place / "train" / "good").is_dir() for place in (root, *sub_folders(root))):  # train and test are no categories
        raise DataError(f"{root}: its good pictures lie in train/good, which is MVTec AD's layout. Give --data.format mvtec.")
    found = {f.name: f for f in sub_folders(root) if (f / "good").is_dir()}
    if not found:
        raise DataError(
            f"{root}: no pictures and no folder good in it. Put the pictures of good products in {root / 'good'}."
        )
    return found


def read_folder(name: str, root: Path) -> Category:
    """One category in the layout above.

    Raises DataError if there are too few pictures, a defect lacks its mask or a mask lacks its picture."""
    good = require_pictures(root / "good" if (root / "good").is_dir() else root)
    note = ""
    if (root / "test_good").is_dir():
        held = require_pictures(root / "test_good")
    elif len(good) < 2:
        raise DataError(f"{good[0]}: the only good picture in its folder, and one is held out for testing. Add more.")
    else:
        chosen = good[HELD_OUT - 1 :: HELD_OUT] or good[-1:]
        held, good = chosen, [p for p in good if p not in set(chosen)]
        note = (
            f"no folder test_good: every {HELD_OUT}th good picture by name, {len(held)} of {len(held) + len(good)}, "
            "was held out for testing"
        )
    others = [f.name for f in sub_folders(root) if f.name not in PARTS and list_pictures(f)]
    if others:
        note += f"{'; ' * bool(note)}pictures of other folders than {', '.join(PARTS)} were not looked at: {', '.join(others)}"
    test = [Sample(p) for p in held] + _defects(root / "defects", root / "masks")
    return Category(name, [Sample(p) for p in good], test, note)


def _defects(folder: Path, masks: Path) -> list[Sample]:
    """The pictures straight in the folder, then those of each sub-folder."""
    places = [("defect", folder, masks), *((f.name, f, masks / f.name) for f in sub_folders(folder))]
    samples = []
    for kind, place, truth in places:
        pictures = list_pictures(place)
        paired = match_masks(pictures, truth) if masks.is_dir() else [None] * len(pictures)
        samples += [Sample(p, m, 1, kind) for p, m in zip(pictures, paired)]
    if folder.is_dir() and not samples:
        raise DataError(f"{folder}: no pictures in it. Put pictures of defects there or remove the folder.")
    for orphan in sub_folders(masks):
        if list_pictures(orphan) and not (folder / orphan.name).is_dir():
            raise DataError(
                f"{list_pictures(orphan)[0]}: a mask without its picture: there is no {folder / orphan.name}. "
                "Restore that folder or remove the masks."
            )
    return samples
