"""Looking into folders: which files are pictures, which mask belongs to which picture."""

import os
from collections.abc import Iterator
from pathlib import Path

from bikd_fast.data.errors import DataError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm", ".jp2"})


def list_pictures(folder: Path) -> list[Path]:
    """The picture files directly in a folder, by name; hidden ones (._001.png of a Mac) and other suffixes left out."""
    if not folder.is_dir():
        return []
    found = (f for f in folder.iterdir() if f.suffix.lower() in SUFFIXES and not f.name.startswith(".") and f.is_file())
    return sorted(found, key=lambda f: f.name)


def require_pictures(folder: Path, below: bool = False) -> list[Path]:
    """list_pictures, with ``below`` also of the folders below, or a DataError that says what was found instead."""
    pictures = pictures_below(folder) if below else list_pictures(folder)
    if not pictures:
        if not folder.is_dir():
            found = "no such folder"
        else:
            files = sorted(f.name for f in folder.iterdir())
            found = f"no pictures among its {len(files)} entries ({', '.join(files[:3])})" if files else "empty folder"
        raise DataError(f"{folder}: {found}. Put pictures there ({' '.join(sorted(SUFFIXES))}).")
    return pictures


def sub_folders(folder: Path) -> list[Path]:
    """The visible sub-folders of a folder, by name."""
    if not folder.is_dir():
        return []
    return sorted((f for f in folder.iterdir() if f.is_dir() and not f.name.startswith(".")), key=lambda f: f.name)


def pictures_below(folder: Path) -> list[Path]:
    """list_pictures of a folder and of each folder below it. A folder that can't be looked into stands in it for its pictures:
    whoever reads them says so."""
    shut: list[Path] = []
    found = [picture for place in folders_below(folder, shut) for picture in list_pictures(place)]
    return found + shut


def folders_below(start: Path, shut: list[Path]) -> Iterator[Path]:
    """Folders to the bottom, no hidden ones. Links are followed, each real folder comes once.

    shut: gets those that can't be looked into, in place of what is below them."""
    seen: set[str] = set()

    def refused(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):  # a link to nothing
            shut.append(Path(error.filename))

    starts = [start]
    for top in starts:  # grows: links come after all folders that really lie here, so that these keep their names
        for place, folders, _ in os.walk(top, onerror=refused):
            real = os.path.realpath(place)
            folders[:] = sorted(f for f in folders if not f.startswith(".") and real not in seen)
            if real not in seen:
                seen.add(real)
                starts += [link for f in folders if (link := Path(place, f)).is_symlink()]
                yield Path(place)


def match_masks(pictures: list[Path], mask_folder: Path) -> list[Path]:
    """The mask of every picture: the file in mask_folder named STEM_mask.* or STEM.*, in the order of the pictures.

    Raises DataError for a picture without its mask, a mask without its picture, and where two of either claim the same."""
    by_stem: dict[str, Path] = {}
    for picture in pictures:
        if picture.stem in by_stem:
            raise DataError(f"{picture}: its mask would be that of {by_stem[picture.stem].name} too. Rename one of them.")
        by_stem[picture.stem] = picture
    masks: dict[str, Path] = {}
    for file in list_pictures(mask_folder):
        plain = file.stem.removesuffix("_mask")
        of = plain if plain in by_stem else file.stem
        if of not in by_stem:
            raise DataError(
                f"{file}: a mask without its picture (looked for {plain}.* beside the other pictures). Restore the picture or "
                "remove the mask."
            )
        if of in masks:
            raise DataError(f"{file}: {masks[of].name} is a mask of {by_stem[of].name} as well. Remove one of them.")
        masks[of] = file
    for picture in pictures:
        if picture.stem not in masks:
            raise DataError(
                f"{picture}: no mask {picture.stem}_mask.png in {mask_folder}. Add it, or take all masks away to "
                "measure pictures only."
            )
    return [masks[picture.stem] for picture in pictures]
