"""Run a script as it is, but with what chance needs: calls that wait, and a record of what has been synced.

    $ python tests/chaos/wrapper.py DIRECTORY NAME SCRIPT [ARGUMENT ...]

Files in the directory are the signs. While `pause` exists, the script stands still after each call that gives it a
message, as on a busy machine; while `hold` exists, after it has taken an assignment. While `NAME.stuck` exists, its
first client gives no message, and the script looks for that every other second, not once a minute. While `NAME.slow`
exists, a sync does not end. `NAME.synced` holds how many bytes of standard output a power cut would leave.
"""

import itertools
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import confluent_kafka

PAUSE_SECONDS = 0.2
TICK = 0.05  # seconds between two looks at whether a file is gone


def wait_while(sign: str) -> None:
    """Wait until a file is gone."""
    while os.path.exists(sign):
        time.sleep(TICK)


def recording(real: Callable[[int], None], slow: str, record: str) -> Callable[[Any], None]:
    """Return `real`, a call that syncs a file, with a wait and a record of how long the file was before."""

    def sync(file: Any) -> None:
        descriptor = file if isinstance(file, int) else file.fileno()
        status = os.fstat(descriptor)  # before the call: what is written meanwhile may or may not be on the disk
        wait_while(slow)
        real(descriptor)
        if os.path.samestat(status, os.fstat(1)):
            with open(record, "r+b", buffering=0) as stream:
                stream.write(b"%20d" % status.st_size)  # always as long, in one write: a kill leaves no half of it

    return sync


def main() -> None:
    """Put all in place, and run the script."""
    directory, name, *sys.argv = sys.argv[1:]
    pause, hold = f"{directory}/pause", f"{directory}/hold"
    stuck, slow, record = f"{directory}/{name}.stuck", f"{directory}/{name}.slow", f"{directory}/{name}.synced"
    script: dict[str, Any] = {"__name__": "__main__", "__file__": sys.argv[0]}
    usual: dict[str, float] = {}  # its constants, as they are in the file
    clients = itertools.count()

    class Client(confluent_kafka.Consumer):
        """A client that pauses with a message in hand, or stands still."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            """Take note of which one it is."""
            super().__init__(*arguments, **options)
            self._first, self._still = next(clients) == 0, False

        def subscribe(self, *arguments: Any, **callbacks: Any) -> None:
            """Join the group, and wait with each assignment."""
            taken = callbacks.get("on_assign")

            def on_assign(client: Any, partitions: Any) -> None:
                if taken:
                    taken(client, partitions)
                wait_while(hold)

            super().subscribe(*arguments, **{**callbacks, "on_assign": on_assign})

        def poll(self, *arguments: Any, **options: Any) -> Any:
            """Return a message, late."""
            self._stand()
            return self._late(super().poll(*arguments, **options))

        def consume(self, *arguments: Any, **options: Any) -> Any:
            """Return messages, late."""
            return self._late(super().consume(*arguments, **options))

        def _stand(self) -> None:
            still = os.path.exists(stuck)
            if "LOOK_SECONDS" in script:
                script["LOOK_SECONDS"] = 2 if still else usual.setdefault("LOOK_SECONDS", script["LOOK_SECONDS"])
            if self._first and still:
                self.pause(self.assignment())  # again and again: a rebalance may give it others
            elif self._still:
                self.resume(self.assignment())
            self._still = self._first and still

        def _late(self, taken: Any) -> Any:
            if taken is not None and taken != [] and os.path.exists(pause):  # an empty message is false, too
                time.sleep(PAUSE_SECONDS)
            return taken

    confluent_kafka.Consumer = Client  # type: ignore[misc]
    os.fsync = recording(os.fsync, slow, record)  # type: ignore[assignment]
    if hasattr(os, "fdatasync"):
        os.fdatasync = recording(os.fdatasync, slow, record)  # type: ignore[assignment]
    sys.path[0] = os.path.dirname(os.path.abspath(sys.argv[0]))  # as without the wrapper
    exec(compile(Path(sys.argv[0]).read_bytes(), sys.argv[0], "exec"), script)


if __name__ == "__main__":
    main()
