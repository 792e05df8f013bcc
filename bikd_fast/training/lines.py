"""A connection between rank 0 and each other rank over which nothing is said: the kernel hangs up where a process dies.

It is noticed at once, whatever the machine. A machine that is down or a cut link hangs up on nobody, so the two can be told apart.
Something between the machines may hang up as well: a closed line is a suspicion, and is called again.
"""

from __future__ import annotations

import secrets
import selectors
import socket
import threading
from typing import Any

_PATIENCE = 5.0  # seconds, of a call
_PAUSE = 2.0  # seconds, between calls


class Lines:
    """This rank's lines.

    Attributes:
        open: whether the line of a rank is; a rank that is missing never had one.
    """

    def __init__(self, over: threading.Event) -> None:
        self.open: dict[int, bool] = {}
        self._over = over

    def serve(self) -> dict[str, Any]:
        """Take calls from now on, as rank 0; returns what the others have to know to call."""
        six = socket.has_dualstack_ipv6()
        server = socket.create_server(("", 0), family=socket.AF_INET6 if six else socket.AF_INET, dualstack_ipv6=six, backlog=1024)
        server.setblocking(False)
        word = secrets.token_hex(8)  # strangers (a port scan) are no ranks
        threading.Thread(target=self._serve, args=(server, word), name="bikd-lines", daemon=True).start()
        return {"port": server.getsockname()[1], "word": word}

    def _serve(self, server: socket.socket, word: str) -> None:
        with selectors.DefaultSelector() as open_lines, server:
            open_lines.register(server, selectors.EVENT_READ)
            while not self._over.is_set():
                for key, _ in open_lines.select(timeout=1.0):
                    line: Any = key.fileobj
                    try:
                        if line is server:
                            caller, _ = server.accept()
                            caller.setblocking(False)
                            open_lines.register(caller, selectors.EVENT_READ)
                            continue
                        said = line.recv(64).decode(errors="replace").split()
                    except BlockingIOError:
                        continue
                    except ConnectionResetError:
                        said = []
                    except OSError:  # the link, or no more files may be open: silence will have to tell
                        open_lines.unregister(line)
                        continue
                    if said and said[0] == word:
                        open_lines.modify(line, selectors.EVENT_READ, int(said[1]))
                        self.open[int(said[1])] = True
                        continue
                    if key.data is not None:
                        self.open[key.data] = False
                    open_lines.unregister(line)
                    line.close()

    def call(self, address: str, where: dict[str, Any], rank: int) -> None:
        """Hold a line to rank 0 from now on, as ``rank``."""
        threading.Thread(target=self._call, args=(address, where, rank), name="bikd-line", daemon=True).start()

    def _call(self, address: str, where: dict[str, Any], rank: int) -> None:
        while not self._over.is_set():
            try:
                with socket.create_connection((address, where["port"]), timeout=_PATIENCE) as line:
                    line.settimeout(None)
                    line.sendall(f"{where['word']} {rank} ".encode())
                    self.open[0] = True
                    self._hold(line)
            except OSError:  # nobody there, or no way there
                pass
            self._over.wait(_PAUSE)

    def _hold(self, line: socket.socket) -> None:
        try:
            line.recv(1)  # returns when rank 0 is gone
        except ConnectionResetError:
            pass
        except OSError:
            return
        self.open[0] = False
