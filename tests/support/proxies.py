"""A TCP proxy that breaks a connection around a COMMIT: before it reaches the server, or before its reply is back."""

from __future__ import annotations

import select
import socket
from contextlib import suppress
from threading import Thread

COMMIT = b"COMMIT\0"
BYTES = 65_536


class CuttingProxy:
    """Forwards everything between its clients and a server; breaks one connection when it is told to."""

    def __init__(self, host: str, port: int, at: int = 0) -> None:
        self._server = (host, port)
        self._listener = socket.create_server(("127.0.0.1", at))
        self.port = int(self._listener.getsockname()[1])
        self.cuts = 0
        self._mode = ""
        self._left = 0
        Thread(target=self._accept, daemon=True).start()

    def cut(self, mode: str, commits: int = 1) -> None:
        """Breaks the connection `before` or `after` the n-th COMMIT from now on has reached the server."""
        self._mode, self._left = mode, commits

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(self._server) as server, suppress(OSError):
            while True:
                ready, _, _ = select.select([client, server], [], [])
                data = b""
                if client in ready:
                    data = client.recv(BYTES)
                    if COMMIT in data and self._should_cut():
                        if self._mode == "after":
                            server.sendall(data)
                            # The server answers when the commit is done, and nobody hears it.
                            server.recv(BYTES)
                        self._mode = ""
                        self.cuts += 1
                        return
                    server.sendall(data)
                if server in ready:
                    data = server.recv(BYTES)
                    client.sendall(data)
                if not data:
                    return

    def _should_cut(self) -> bool:
        if not self._mode:
            return False
        self._left -= 1
        return self._left == 0
