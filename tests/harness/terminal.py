"""A pseudo-terminal: what a person sees, and the one key that counts."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import threading
import time
from typing import Any

import pytest

ROWS = 24


class Terminal:
    """A pseudo-terminal whose output is read all the time.

    Either a test hands `descriptor` to a process that it starts, or `start` runs a command with the terminal as its
    controlling one, in which alone Ctrl-C becomes a signal. Where there are no pseudo-terminals the test is skipped.
    """

    def __init__(self, columns: int = 80) -> None:
        """Open it, as wide as that."""
        try:
            self._keyboard, self.descriptor = pty.openpty()
        except OSError as error:
            pytest.skip(f"no pseudo-terminal can be had: {error}")
        fcntl.ioctl(self.descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, columns, 0, 0))
        attributes = termios.tcgetattr(self.descriptor)
        attributes[3] |= termios.NOFLSH  # or a Ctrl-C would drop what has been written and not yet read
        termios.tcsetattr(self.descriptor, termios.TCSANOW, attributes)
        self._output = b""
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> "Terminal":
        """Return it."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Close it."""
        self.close()

    def _read(self) -> None:
        while not self._closing.is_set():
            select.select([self._keyboard], [], [], 0.1)
            self._read_what_is_there()

    def _read_what_is_there(self) -> None:
        with self._lock:
            while select.select([self._keyboard], [], [], 0)[0]:
                self._output += os.read(self._keyboard, 65536)

    @property
    def text(self) -> str:
        """All that has been written to it."""
        self._read_what_is_there()
        return self._output.decode(errors="replace")

    def screen(self) -> list[str]:
        """Return the lines that a person sees, after carriage returns and erasures."""
        return [line.rpartition("\x1b[K")[2].rstrip("\r") for line in self.text.split("\n")]

    def wait_for(self, pattern: str, seconds: float = 10) -> re.Match[str]:
        """Wait until a regular expression is found in its text; return the match."""
        deadline = time.monotonic() + seconds
        while not (found := re.search(pattern, self.text)):
            assert time.monotonic() < deadline, f"no {pattern!r} within {seconds} s in {self.text[-3000:]!r}"
            time.sleep(0.02)
        return found

    def press_ctrl_c(self) -> None:
        """What the key does."""
        os.write(self._keyboard, b"\x03")

    def start(self, command: list[str], **options: Any) -> "subprocess.Popen[bytes]":
        """Start a command in this terminal, as its controlling one; `options` are subprocess.Popen's."""
        # The terminal that the first process of a session opens becomes its controlling one.
        opening = ["sh", "-c", 'exec "$@" <> "$0" >&0 2>&1', os.ttyname(self.descriptor), *command]
        return subprocess.Popen(opening, start_new_session=True, **options)

    def close(self) -> None:
        """Close it, which a process that still runs in it is told by SIGHUP."""
        self._closing.set()
        self._reader.join()
        os.close(self.descriptor)
        os.close(self._keyboard)
