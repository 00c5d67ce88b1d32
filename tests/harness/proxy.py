"""A proxy on loopback before a broker: a slow link, one that is cut, or one on which an answer is another."""

import contextlib
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def proxy(
    target: int,
    port: int = 0,
    seconds: float = 0,
    answers: int = sys.maxsize,
    edit: Callable[[bytes], bytes] = lambda piece: piece,
) -> Iterator[int]:
    """Forward a port, by default any that is free, to the port `target`; yield the port.

    A round trip takes so many seconds longer; after so many pieces from the other side, each of which `edit` may
    change, the connection is cut.
    """
    ends: list[socket.socket] = []

    def forward(source: socket.socket, sink: socket.socket, pieces: int, edit: Callable[[bytes], bytes]) -> None:
        with contextlib.suppress(OSError):
            while pieces and (data := source.recv(65536)):
                time.sleep(seconds / 2)
                sink.sendall(edit(data))
                pieces -= 1
            sink.shutdown(socket.SHUT_RDWR)

    def accept(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, far = listener.accept()[0], socket.create_connection(("127.0.0.1", target))
                ends.extend((near, far))
                for way in ((near, far, sys.maxsize, bytes), (far, near, answers, edit)):
                    threading.Thread(target=forward, args=way, daemon=True).start()

    with socket.create_server(("127.0.0.1", port)) as listener:
        threading.Thread(target=accept, args=(listener,), daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
    for end in ends:
        end.close()
