"""A proxy on loopback before a broker: a slow link, one that is cut or dies without a word, other answers."""

import contextlib
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable


class Proxy:
    """Forwards a port, by default any that is free, to the port `target`; `with Proxy(target) as proxy:` runs it.

    A round trip takes `seconds` longer, which may be set while it runs; after `answers` pieces from the other side,
    each of which `edit` may change, a connection is closed.
    """

    def __init__(
        self,
        target: int,
        port: int = 0,
        seconds: float = 0,
        answers: int = sys.maxsize,
        edit: Callable[[bytes], bytes] = lambda piece: piece,
    ) -> None:
        """Listen; nothing is accepted yet."""
        self.target, self.seconds, self.answers, self.edit = target, seconds, answers, edit
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port: int = self._listener.getsockname()[1]
        self._links: list[_Link] = []

    def __enter__(self) -> "Proxy":
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for link in self._links:
            link.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near = self._listener.accept()[0]
                try:
                    far = socket.create_connection(("127.0.0.1", self.target))
                except OSError:  # the broker is away
                    near.close()
                    continue
                link = _Link(near, far)
                self._links.append(link)
                for way in ((near, far, sys.maxsize, bytes), (far, near, self.answers, self.edit)):
                    threading.Thread(target=self._forward, args=(link, *way), daemon=True).start()

    def _forward(
        self, link: "_Link", source: socket.socket, sink: socket.socket, pieces: int, edit: Callable[[bytes], bytes]
    ) -> None:
        with contextlib.suppress(OSError):
            while pieces and (data := source.recv(65536)):
                time.sleep(self.seconds / 2)
                if not link.dead:
                    sink.sendall(edit(data))
                    pieces -= 1
            if not link.dead:
                sink.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        """Reset each connection that there is."""
        for link in self._links:
            link.reset()

    def let_die(self) -> None:
        """Forward nothing any more of the connections that there are, and tell nobody, as after a router's restart."""
        for link in self._links:
            link.dead = True


class _Link:
    """A connection through the proxy."""

    def __init__(self, near: socket.socket, far: socket.socket) -> None:
        self.near, self.far = near, far
        self.dead = False

    def reset(self) -> None:
        for end in (self.near, self.far):
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                end.shutdown(socket.SHUT_RDWR)
        self.close()

    def close(self) -> None:
        for end in (self.near, self.far):
            end.close()
