"""Data sets in the layout of MVTec AD (Bergmann et al., CVPR 2019), and of BTAD (Mishra et al., ISIE 2021).

CATEGORY/train/good/*.png, CATEGORY/test/good/*.png, CATEGORY/test/KIND/*.png, CATEGORY/ground_truth/KIND/NAME_mask.png;
BTAD has the categories 01, 02 and 03, calls good ok and its one kind ko, and some of its pictures are .bmp."""

from pathlib import Path

from bikd_fast.data.errors import DataError
from bikd_fast.data.listing import list_pictures, match_masks, require_pictures, sub_folders
from bikd_fast.data.samples import GOOD, Category, Sample


def find_mvtec(root: Path, good: str = GOOD) -> dict[str, Path]:
    """The categories under root by name: the sub-folders with a train/good, or root itself if it is one category.

    good: what the folder of normal pictures is called. Raises DataError if there is none."""
    if (root / "train" / good).is_dir():
        return {root.resolve().name: root}
    found = {f.name: f for f in sub_folders(root) if (f / "train" / good).is_dir()}
    if not found:
        inside = ", ".join(f.name for f in sub_folders(root)[:8]) or "no sub-folders"
        raise DataError(
            f"{root}: no category in it: neither train/{good} nor NAME/train/{good} exists (found: {inside}). "
            "Point data.root at the folder that holds the categories."
        )
    return found


def read_mvtec(name: str, folder: Path, good: str = GOOD) -> Category:
    """One category in MVTec AD's layout. Without a ground_truth folder the defects have no masks.

    Raises DataError if a split is empty, a defect lacks its mask, or a mask lacks its picture."""
    train = [Sample(p) for p in require_pictures(folder / "train" / good)]
    if not (folder / "test").is_dir():
        return Category(name, train, [], note="no test folder: nothing can be measured")
    test = [Sample(p) for p in list_pictures(folder / "test" / good)]
    truth = folder / "ground_truth"
    kinds = [f for f in sub_folders(folder / "test") if f.name != good]
    for kind in kinds:
        pictures = require_pictures(kind)
        masks = match_masks(pictures, truth / kind.name) if truth.is_dir() else [None] * len(pictures)
        test += [Sample(p, m, 1, kind.name) for p, m in zip(pictures, masks)]
    for orphan in sub_folders(truth):
        if orphan.name not in {good, *(k.name for k in kinds)} and list_pictures(orphan):
            raise DataError(
                f"{list_pictures(orphan)[0]}: a mask without its picture: there is no {folder / 'test' / orphan.name}. "
                "Restore that folder or remove the masks."
            )
    return Category(name, train, test)
