"""The network between two programs: a proxy for TCP that can stop answering, or reset every connection."""

import socket
import struct
import threading
from contextlib import suppress
from typing import Literal

State = Literal["open", "silent", "reset"]
_PIECE = 1 << 16


class Proxy:
    """Forwards connections to a port of this machine while its state is `open`.

    silent: connections are taken, and nothing passes in either direction; reset: every connection is reset.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.state: State = "open"
        self._passes = threading.Event()
        self._passes.set()
        self._connections: set[socket.socket] = set()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def set(self, state: State) -> None:
        self.state = state
        if state == "silent":
            self._passes.clear()
            return
        self._passes.set()
        if state == "reset":
            for connection in list(self._connections):
                _reset(connection)

    def close(self) -> None:
        self.set("reset")
        self._listening.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                if self.state == "reset":
                    _reset(client)
                else:
                    threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        self._passes.wait()
        try:
            server = socket.create_connection(("127.0.0.1", self.target))
        except OSError:
            _reset(client)
            return
        pair = {client, server}
        self._connections |= pair
        there = threading.Thread(target=self._forward, args=(client, server), daemon=True)
        there.start()
        self._forward(server, client)
        there.join()
        self._connections -= pair
        for each in pair:
            each.close()

    def _forward(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while piece := source.recv(_PIECE):
                self._passes.wait()
                target.sendall(piece)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)


def _reset(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RDWR)
    with suppress(OSError):
        connection.close()
