"""Tiny pictures and folders to read."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def put(tmp_path):
    """put("a/b.png", value=7) writes a small picture under tmp_path and returns its path."""

    def write(name: str, value: int = 128, size: tuple[int, int] = (8, 6), mode: str = "L") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new(mode, size, value if mode == "L" else (value,) * len(mode)).save(path)
        return path

    return write


@pytest.fixture
def put_mask(tmp_path):
    """A mask whose left two columns are defect."""

    def write(name: str, size: tuple[int, int] = (8, 6)) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        mask = np.zeros((size[1], size[0]), np.uint8)
        mask[:, :2] = 255
        Image.fromarray(mask).save(path)
        return path

    return write


def png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    """A PNG file by hand, for what Pillow does not write: 16-bit colour, a header that lies about its size."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.fixture
def raw_png():
    return png
