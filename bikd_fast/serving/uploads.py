"""Bytes that a stranger sent to a picture, or a refusal. Nothing is decoded before its header has been judged."""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import Image, UnidentifiedImageError

from bikd_fast.data import DataError, picture_array
from bikd_fast.serving.settings import Limits

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")


class Refused(Exception):
    """A request that is answered with an error: HTTP status and a sentence for whoever sent it."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


def decode(data: bytes, limits: Limits) -> np.ndarray:
    """uint8 (H, W, 3) RGB of an uploaded file.

    Raises:
        Refused: 400 empty or damaged, 413 too many pixels, 415 no picture or of a format that is not taken.
    """
    if not data:
        raise Refused(400, "the upload is empty")
    taken = ", ".join(FORMATS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of large pictures; the limit below judges them
            with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
                width, height = picture.size
                if width * height > limits.pixels:
                    raise Refused(413, f"the picture has {width} x {height} pixels, more than the {limits.pixels} allowed")
                return picture_array(picture, "the upload")
    except Refused:
        raise
    except UnidentifiedImageError:
        raise Refused(415, f"the upload is no picture of a format that is taken ({taken})") from None
    except Image.DecompressionBombError:
        raise Refused(413, f"the picture has more than the {limits.pixels} pixels allowed") from None
    except DataError as error:
        raise Refused(400, str(error)) from None
    except MemoryError:
        raise Refused(413, "the picture takes more memory than there is") from None
    except Exception as error:  # damaged files raise OSError, SyntaxError, struct.error, zlib.error ... by format
        raise Refused(400, f"the picture is damaged or cut short ({type(error).__name__})") from None
