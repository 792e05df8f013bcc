"""Serve a detector over HTTP: `bikd serve RUN`, `python bikd_fast/serve.py RUN`."""

from __future__ import annotations

import argparse
import os
import secrets
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bikd_fast.errors import UserError, guarded

TOKEN = "BIKD_TOKEN"  # name of an environment variable


def main(arguments: Sequence[str] | None = None) -> int:
    """Load the detector, say where it is served, serve until interrupted."""
    parser = argparse.ArgumentParser(prog="bikd serve", description="Serve a detector over HTTP: an upload page and a JSON API.")
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("--category", help="which detector, where the run holds several")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; any but the default asks for a token")
    parser.add_argument("--port", type=int, default=8000, help="default 8000; 0 takes a free one")
    parser.add_argument("--max-upload-mb", type=float, default=32.0, help="largest upload; default 32")
    parser.add_argument("--max-pixels", type=int, default=50_000_000, help="largest picture; default 50 million pixels")
    parser.add_argument("--batch", type=int, default=8, help="pictures through the network at a time; default 8")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ...; default the GPU where there is one")
    options = parser.parse_args(arguments)
    if not 0 <= options.port <= 65535:
        parser.error(f"--port {options.port}: ports are 0 to 65535")
    if not 0 < options.max_upload_mb < 1 << 20:
        parser.error(f"--max-upload-mb {options.max_upload_mb:g}: a size above 0, in megabytes")
    if options.batch < 1 or options.max_pixels < 1:
        parser.error("--batch and --max-pixels must be at least 1")

    try:
        import uvicorn

        from bikd_fast.serving.app import create_app
    except ImportError as error:
        raise UserError(f"serving needs {error.name}: pip install 'bikd_fast[serve]'.") from error
    from bikd_fast.inference.colours import colour_range
    from bikd_fast.inference.find import find_detector, load_detector
    from bikd_fast.serving.settings import LOCAL_HOSTS, Limits

    folder = find_detector(options.run, options.category)
    detector = load_detector(options.run, options.category, options.device)
    base = folder.parent if folder.is_file() else folder
    limits = Limits(int(options.max_upload_mb * (1 << 20)), options.max_pixels, batch=options.batch)
    token = os.environ.get(TOKEN) or (None if options.host in LOCAL_HOSTS else secrets.token_urlsafe(24))
    app = create_app(detector, limits=limits, token=token, colours=colour_range(base, detector.pixel_threshold.item()))
    config = uvicorn.Config(
        app, host=options.host, port=options.port, log_level="warning", access_log=False, timeout_keep_alive=15, ws="none",
        server_header=False,
    )  # fmt: skip
    bound = _bound(options.host, options.port)
    lines = [f"serving {folder} on http://{_shown(options.host)}:{bound.getsockname()[1]}"]
    if token is not None and not os.environ.get(TOKEN):
        lines.append(f"token: {token}\n(set {TOKEN} to choose it; it travels unencrypted unless a proxy adds TLS)")

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[Any] | None = None) -> None:
            await super().startup(sockets)
            print("\n".join(lines), flush=True)  # now it does answer

    Server(config).run(sockets=[bound])
    return 0


def _bound(host: str, port: int) -> socket.socket:
    """A socket at this address.

    Raises:
        UserError: it is taken, or no address of this machine.
    """
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((host, port))
    except OSError as error:
        made.close()
        what = f"--host {host} --port {port}: cannot be listened on ({error.strerror})"
        raise UserError(f"{what}. Take others; --port 0 is any free one.") from error
    return made


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host


if __name__ == "__main__":
    sys.exit(guarded(main))
