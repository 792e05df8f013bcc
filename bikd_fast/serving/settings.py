"""What a service may be told, and what it refuses."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds on what one request, and all of them together, may cost.

    upload_bytes: of a request's body. pixels: of a picture, checked in its header before a pixel is decoded.
    seconds: for a body to arrive and for an answer to be computed. waiting: pictures queued for the network; beyond it,
    requests are sent away with 503. batch: pictures through the network at a time. held_bytes: of all bodies that have arrived
    and are not answered; beyond it, 503.
    """

    upload_bytes: int = 32 << 20
    pixels: int = 50_000_000
    seconds: float = 30.0
    waiting: int = 256
    batch: int = 8
    held_bytes: int = 512 << 20


LOCAL_HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})
