"""Run a script as it is, but with two things that chance needs: pauses, and a record of what has been synced.

    $ python tests/chaos/wrapper.py PAUSE SYNCED SCRIPT [ARGUMENT ...]

While the file PAUSE exists, the script stands still after each call that gives it a message, as on a busy machine.
The file SYNCED holds how many bytes of standard output a power cut would leave.
"""

import os
import runpy
import sys
import time
from collections.abc import Callable
from typing import Any

import confluent_kafka

PAUSE_SECONDS = 0.2


def recording(real: Callable[[int], None], record: str) -> Callable[[Any], None]:
    """Return `real`, a call that syncs a file, with a record of how long the file was then."""

    def sync(file: Any) -> None:
        descriptor = file if isinstance(file, int) else file.fileno()
        status = os.fstat(descriptor)  # before the call: what is written meanwhile may or may not be on the disk
        real(descriptor)
        if os.path.samestat(status, os.fstat(1)):
            with open(record, "r+b", buffering=0) as stream:
                stream.write(b"%20d" % status.st_size)  # always as long, in one write: a kill leaves no half of it

    return sync


def main() -> None:
    """Put the two things in place, and run the script."""
    pause, record, *sys.argv = sys.argv[1:]

    class Client(confluent_kafka.Consumer):
        """A client that pauses with a message in hand."""

        def poll(self, *arguments: Any, **options: Any) -> Any:
            """Return a message, late."""
            return self._late(super().poll(*arguments, **options))

        def consume(self, *arguments: Any, **options: Any) -> Any:
            """Return messages, late."""
            return self._late(super().consume(*arguments, **options))

        def _late(self, taken: Any) -> Any:
            if taken is not None and taken != [] and os.path.exists(pause):  # an empty message is false, too
                time.sleep(PAUSE_SECONDS)
            return taken

    confluent_kafka.Consumer = Client  # type: ignore[misc]
    os.fsync = recording(os.fsync, record)  # type: ignore[assignment]
    if hasattr(os, "fdatasync"):
        os.fdatasync = recording(os.fdatasync, record)  # type: ignore[assignment]
    sys.path[0] = os.path.dirname(os.path.abspath(sys.argv[0]))  # as without the wrapper
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
