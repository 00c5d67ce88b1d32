"""Programs as a user runs them: consumer.py as a process, and lines for a shell."""

import base64
import contextlib
import itertools
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import pytest

from harness.environment import ROOT, SCRIPT, user_environment

_number = itertools.count(1)

# A name that the script does not have is an error: its wait would last as long as before.
_WITH_CONSTANTS = """\
import json, sys
sys.path.insert(0, sys.argv.pop(1))
import consumer
for name, value in json.loads(sys.argv.pop(1)).items():
    assert hasattr(consumer, name), f"consumer.py has no {name}"
    setattr(consumer, name, value)
sys.exit(consumer.main())
"""


class Run:
    """One process of consumer.py. Its standard output and error go to files in `directory`, unless others are given.

    `constants` are constants of the script that have another value in this process, so that no test waits for a
    minute. `options` are subprocess.Popen's.
    """

    def __init__(
        self,
        directory: Path,
        arguments: list[str],
        constants: Mapping[str, float] | None = None,
        command: Sequence[str] = (sys.executable, str(SCRIPT)),
        **options: Any,
    ) -> None:
        """Start it in the environment of a user; `command` is what is put before the arguments."""
        if constants:
            command = [sys.executable, "-c", _WITH_CONSTANTS, str(ROOT), json.dumps(constants)]
        number = next(_number)
        self.stdout_path = directory / f"stdout-{number}"
        self.stderr_path = directory / f"stderr-{number}"
        self._counted_bytes = self._counted_lines = 0
        with self.stdout_path.open("wb") as out, self.stderr_path.open("wb") as err:
            self.process = subprocess.Popen(
                [*command, *arguments],
                **{
                    **{"stdin": subprocess.DEVNULL, "stdout": out, "stderr": err, "env": user_environment()},
                    **options,
                },
            )

    @property
    def stdout(self) -> str:
        """What it has written so far."""
        return self.stdout_path.read_text(encoding="utf-8")

    @property
    def stderr(self) -> str:
        """What it has said so far."""
        return self.stderr_path.read_text(encoding="utf-8")

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The whole lines written so far, parsed."""
        return parse(self.stdout[: self.stdout.rfind("\n") + 1])

    def wait_for(self, what: "Callable[[Run], Any]", seconds: float = 60) -> None:
        """Wait until what(self) is true; fail with the process's output where it never is."""
        deadline = time.monotonic() + seconds
        while not what(self):
            if time.monotonic() > deadline:
                printed = f"{self.count_lines()} lines, the last {self.stdout[-500:]!r}"
                pytest.fail(f"not within {seconds} s; {printed}\n{self.stderr[-2000:]}")
            time.sleep(0.02)

    def count_lines(self) -> int:
        """Return how many whole lines it has written so far; what was counted before is not read again."""
        with self.stdout_path.open("rb") as file:
            file.seek(self._counted_bytes)
            while piece := file.read(1 << 20):
                self._counted_bytes += len(piece)
                self._counted_lines += piece.count(b"\n")
        return self._counted_lines

    def wait_for_lines(self, count: int, seconds: float = 60) -> None:
        """Wait until so many lines have been written."""
        self.wait_for(lambda run: run.count_lines() >= count, seconds)

    def wait_for_words(self, words: str, seconds: float = 60) -> None:
        """Wait until standard error has these words."""
        self.wait_for(lambda run: words in run.stderr, seconds)

    def end(self, seconds: float = 60) -> int:
        """Wait for its end; return its exit status."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            pytest.fail(f"did not end within {seconds} s; standard error: {self.stderr[-2000:]}")

    def stop(self, how: int = signal.SIGINT) -> int:
        """Send a signal and wait for the end; return the exit status."""
        self.process.send_signal(how)
        return self.end()

    def kill(self) -> None:
        """End it at once, as kill -9 does."""
        self.process.kill()
        self.process.wait()


def with_client(methods: str, script: Path = SCRIPT) -> list[str]:
    """Return a command, to which arguments can be added, that runs a script whose client has these methods as well."""
    program = f"""if True:
        import os, runpy, signal, sys, time
        import confluent_kafka.admin
        from confluent_kafka import KafkaError, KafkaException
        began = time.monotonic()
        class Client(confluent_kafka.Consumer):
            {methods}
        confluent_kafka.Consumer = Client
        sys.argv[0] = {str(script)!r}
        runpy.run_path(sys.argv[0], run_name="__main__")"""
    return [sys.executable, "-c", program]


def peak_memory(process: "subprocess.Popen[Any]") -> int:
    """Return what its resident memory has been at the most, in bytes; 0 once it has ended, or without /proc."""
    # Not ru_maxrss, in which a process begins with the size of the parent that forked it.
    with contextlib.suppress(OSError), open(f"/proc/{process.pid}/status", encoding="ascii") as file:
        for line in file:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def wait_until_full(pipe: "IO[Any] | int | None", seconds: float = 60) -> None:
    """Wait until a pipe that nobody reads takes hardly more, so that whoever writes into it hangs."""
    import fcntl  # Windows has neither of them
    import termios

    assert pipe is not None
    # Its pages are not all full, and elsewhere than on Linux nobody tells its size.
    enough = fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ) * 3 // 4 if sys.platform == "linux" else 12_000
    deadline = time.monotonic() + seconds
    while (held := int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)) < enough:
        assert time.monotonic() < deadline, f"{held} bytes are in the pipe"
        time.sleep(0.02)


def offsets(runs: Iterable[Run]) -> Counter[tuple[int, int]]:
    """Return how often the runs have printed each (partition, offset)."""
    return Counter((line["partition"], line["offset"]) for run in runs for line in run.lines)


Start = Callable[..., Run]  # what the fixture `start` returns


def parse(text: str) -> list[dict[str, Any]]:
    """Return the JSON objects of JSON Lines."""
    return [json.loads(line) for line in text.split("\n")[:-1]]


def value_of(line: Mapping[str, Any]) -> bytes | None:
    """Return the bytes of a parsed line's value, None for a tombstone; raise ValueError where they are no base64."""
    value = line["value"]
    if value is None or "encoding" not in line:
        return None if value is None else str(value).encode()
    return base64.b64decode(value, validate=True)


def shell(command: str, directory: Path, seconds: float = 30, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a line of bash with pipefail in a directory, in the environment of a user and `env`; return its outcome."""
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail\n{command}"],
        capture_output=True,
        encoding="utf-8",
        timeout=seconds,
        cwd=directory,
        env=user_environment(**env),
    )


@contextlib.contextmanager
def seconds_at_most(limit: float) -> Iterator[None]:
    """Fail where the block takes longer."""
    began = time.monotonic()
    yield
    took = time.monotonic() - began
    assert took <= limit, f"took {took:.1f} s instead of at most {limit} s"
