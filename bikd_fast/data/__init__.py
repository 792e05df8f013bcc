"""Data sets: readers, decoding, loading, and the embedded set."""

from bikd_fast.data.dataset import FORMATS, describe, open_dataset
from bikd_fast.data.decode import decode_image, decode_mask, picture_array, picture_size
from bikd_fast.data.errors import DataError
from bikd_fast.data.load import fit, load_image, load_images, load_masks
from bikd_fast.data.samples import Category, Sample, good_pictures, has_masks

__all__ = [
    "FORMATS",
    "Category",
    "DataError",
    "Sample",
    "decode_image",
    "decode_mask",
    "describe",
    "fit",
    "good_pictures",
    "has_masks",
    "load_image",
    "load_images",
    "load_masks",
    "open_dataset",
    "picture_array",
    "picture_size",
]
