"""Frames of a video file or a camera, through PyAV (the extra ``video``)."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from bikd_fast.errors import UserError

VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".ts"})


class VideoError(UserError):
    """A video or a camera cannot be read; the message names it."""


def camera_index(word: str) -> int | None:
    """N of ``camera:N``, else None."""
    found = re.fullmatch(r"camera:(\d{1,3})", word)
    return int(found[1]) if found else None


def camera_name(word: str) -> str:
    """``camera:N`` as the operating system calls the N-th camera."""
    number = camera_index(word)
    return {"linux": f"/dev/video{number}", "win32": f"video={number}"}.get(sys.platform, str(number))


def frames(name: str, every: int = 1) -> Iterator[tuple[int, torch.Tensor]]:
    """(number, uint8 (3, H, W) RGB) of each ``every``-th frame, from number 0, decoded one at a time, turned upright.

    Raises:
        VideoError: PyAV is not installed, or the file or camera cannot be opened or decoded.
    """
    try:
        import av
    except ImportError as error:
        raise VideoError("videos and cameras need PyAV: pip install 'bikd_fast[video]'.") from error
    camera = name.startswith(("/dev/video", "video=")) or name.isdigit()
    driver = {"linux": "v4l2", "win32": "dshow"}.get(sys.platform, "avfoundation") if camera else None
    try:
        with av.open(name, format=driver) as container:
            if not container.streams.video:
                raise VideoError(f"{name}: no video in it.")
            stream: Any = container.streams.video[0]
            stream.thread_type = "AUTO"
            for number, frame in enumerate(container.decode(stream)):
                if number % every == 0:
                    quarters = round(getattr(frame, "rotation", 0) / 90)  # counter-clockwise; a telephone held upright says -90
                    upright = np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), quarters))
                    yield number, torch.from_numpy(upright).permute(2, 0, 1)
    except av.FFmpegError as error:
        what = "camera" if camera else "video"
        raise VideoError(f"{name}: not a readable {what} ({error.strerror or error}).") from error
