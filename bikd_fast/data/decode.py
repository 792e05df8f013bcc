"""One picture file to one array, whatever the file's colour mode, depth and orientation."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from bikd_fast.data.errors import DataError
from bikd_fast.data.shards import opened, size_of

MAX_PIXELS = 89_478_485  # Pillow's own bound: a quarter of a GiB as 24-bit RGB
_EXIF_ORIENTATION = 0x0112
_TIFF_PHOTOMETRIC = 262  # 0: the smallest value is white
_TIFF_BITS = 258  # of each value of a pixel
_TIFF_PLANES = 284  # 2: all red values, then all green ones, then all blue ones
_LOSSY = {"JPEG", "MPO", "WEBP"}


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """The picture of a file, its pixels not yet read; whatever goes wrong inside the block becomes one DataError."""
    path = Path(path)
    try:
        # Not its name: Pillow maps a named raw TIFF into memory with width and height of the turned picture, and scrambles it.
        with opened(path) as file, Image.open(file) as picture:
            width, height = picture.size
            if width * height > MAX_PIXELS:
                raise DataError(_too_large(path, f"{width} x {height} pixels"))
            yield picture
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{path}: no such file. Was it moved after the data set was opened?") from None
    except PermissionError:
        raise DataError(f"{path}: not readable by this user. Change its permissions.") from None
    except Image.DecompressionBombError as error:
        raise DataError(_too_large(path, str(error))) from None
    except UnidentifiedImageError:
        size = size_of(path)
        found = "the file is empty" if size == 0 else f"its {size} bytes are no picture format that Pillow reads"
        raise DataError(f"{path}: {found}. Replace or remove the file.") from None
    except Exception as error:  # damaged files raise OSError, SyntaxError, struct.error, zlib.error ... by format
        raise DataError(
            f"{path}: the picture is damaged or cut short ({error}). Copy it again from its source, or remove it."
        ) from error


def _too_large(path: Path, found: str) -> str:
    return (
        f"{path}: {found}, more than the {MAX_PIXELS} allowed: either a decompression bomb or a picture to be "
        "cut into tiles. Shrink or cut it, or remove it."
    )


def picture_size(path: Path) -> tuple[int, int]:
    """(height, width) in pixels as decode_image would return it, read from the file's header only.

    Raises DataError if the file is no picture."""
    with _opened(path) as picture:
        width, height = picture.size
        # Pillow gives a TIFF the size that it has once it is turned.
        turned = picture.format != "TIFF" and picture.getexif().get(_EXIF_ORIENTATION, 1) in (5, 6, 7, 8)
    return (width, height) if turned else (height, width)


def decode_image(path: Path) -> np.ndarray:
    """The picture as uint8 (H, W, 3) RGB, turned upright by its EXIF orientation.

    Gray is repeated over the channels. Transparent pixels are composited over black: a camera that marks pixels as
    transparent has not measured them. CMYK goes through Pillow's conversion, without colour profiles. 16-bit gray
    is divided by 257 (65535 becomes 255), of 16-bit colour the high byte is taken; neither is stretched by the picture's
    own range, so that pictures stay comparable. Float values must lie in [0, 1]. Of several frames the first is taken.
    Raises DataError if the file is missing, no picture, damaged, too large, or of an unknown value range."""
    with _opened(path) as picture:
        return picture_array(picture, path)


def picture_array(picture: Image.Image, name: Path | str) -> np.ndarray:
    """A picture that Pillow has opened as uint8 (H, W, 3) RGB, by the rules of decode_image; name is for messages.

    Raises DataError for an unknown value range, and whatever Pillow raises for damaged data."""
    deep = _is_deep_colour(picture)
    upright = _upright(picture, name)
    if deep:
        _warn_if_dark(256 * int(np.asarray(upright.convert("RGB")).max()), name)  # a dropped low byte changes no answer
    return np.array(_to_rgb(upright, Path(name)))  # a copy of our own: writable, contiguous


def _is_deep_colour(picture: Image.Image) -> bool:
    """Whether a file whose pixels are not yet read has 16-bit colour (or gray with alpha), of which Pillow keeps the high byte."""
    return not picture.mode.startswith("I") and any(";16" in str(tile[3]) for tile in getattr(picture, "tile", []))


def _upright(picture: Image.Image, name: Path | str) -> Image.Image:
    """Its pixels read, turned by its EXIF orientation, 0 black: Pillow leaves deep gray TIFFs whose 0 is white as they are.

    Raises DataError where planes have 16 bits and Pillow would take them to have 8."""
    tags = getattr(picture, "tag_v2", {})
    deep = tags.get(_TIFF_PLANES) == 2 and max(tags.get(_TIFF_BITS, (8,))) > 8
    if deep and any(tile[0] == "raw" and tile[3][0] in ("R", "G", "B") for tile in getattr(picture, "tile", [])):
        found = "uncompressed planes of 16-bit colour, which Pillow takes for 8 bits"
        raise DataError(f"{name}: {found}. Save it with the three values of a pixel together, or with 8 bits.")
    picture.load()
    inverted = picture.mode.startswith(("I", "F")) and tags.get(_TIFF_PHOTOMETRIC) == 0
    upright = ImageOps.exif_transpose(picture)
    if not inverted:
        return upright
    values = np.asarray(upright)
    return Image.fromarray((1 if values.dtype.kind == "f" else 65535) - values)


def _to_rgb(picture: Image.Image, path: Path) -> np.ndarray:
    if picture.mode.startswith(("I", "F")):
        gray = _deep_gray(np.asarray(picture), path)
        return np.repeat(gray[:, :, None], 3, axis=2)
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        black = Image.new("RGBA", layer.size, (0, 0, 0, 255))
        return np.asarray(Image.alpha_composite(black, layer).convert("RGB"))
    return np.asarray(picture.convert("RGB"))


def _deep_gray(values: np.ndarray, path: Path) -> np.ndarray:
    """16-bit integers or floats in [0, 1] to uint8."""
    low, high = (values.min(), values.max()) if values.size else (0, 0)
    if values.dtype.kind == "f":
        if not (low >= 0 and high <= 1):  # NaN fails too
            raise DataError(f"{path}: float values from {low} to {high}, expected 0 to 1. Convert it to 8 or 16 bit.")
        return (values * 255 + 0.5).astype(np.uint8)
    if low < 0 or high > 65535:
        raise DataError(f"{path}: values from {low} to {high}, expected 0 to 65535. Convert it to 8 or 16 bit.")
    _warn_if_dark(int(high), path)
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _warn_if_dark(high: int, name: Path | str) -> None:
    """high: the largest value of a 16-bit picture."""
    if 255 < high < 4096:
        warnings.warn(
            f"{name}: 16-bit file whose brightest value is about {high}: if the camera delivers 10 or 12 bits, scale its "
            "pictures to the full 16 bits, for as they are they look almost black.",
            stacklevel=2,
        )


def decode_mask(path: Path, picture_size: tuple[int, int] | None) -> np.ndarray:
    """The mask as bool (H, W), True on the defect.

    Every value above 0 in any channel is defect (VisA numbers its defects 1, 2, ...); in a lossy file (JPEG, WebP)
    every value above 127 is. Transparent pixels are normal.
    picture_size: (H, W) of the picture the mask belongs to, None to accept any size.
    Raises DataError as decode_image does, and if the mask is of another size than the picture or of 16-bit colour."""
    with _opened(path) as file:
        if _is_deep_colour(file):
            found = "the mask has 16-bit colour, of which only values from 256 on can be told from 0"
            raise DataError(f"{path}: {found}. Save it with 8 bits, or as 16-bit gray.")
        bound = 127 if file.format in _LOSSY else 0
        upright = _upright(file, path)
        if upright.mode.startswith(("I", "F")):
            mask = np.asarray(np.asarray(upright) > 0)
        else:
            mask = np.any(_to_rgb(upright, Path(path)) > bound, axis=2)
    if picture_size is not None and mask.shape != tuple(picture_size):
        (h, w), (ph, pw) = mask.shape, picture_size
        raise DataError(
            f"{path}: the mask has {w} x {h} pixels, its picture {pw} x {ph}. Draw the mask at the picture's size."
        )
    return mask
