"""Copies of the script, each started again whenever it has ended, and what they print."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import words
from harness.environment import user_environment
from harness.process import value_of

from chaos.feed import Position, digest
from chaos.judge import Line, Run

TICK = 0.05  # seconds between two looks at everything
WRAPPER = Path(__file__).with_name("wrapper.py")


class CopyRun:
    """One process of the script; `record` is what the judge will know of it."""

    def __init__(self, process: "subprocess.Popen[bytes]", log: Path, record: Run) -> None:
        """Take a process that has just been started."""
        self.process, self.log, self.record = process, log, record
        self.writes = False
        self._known = 0

    def news(self) -> str:
        """Return the whole lines that it has said since the last call."""
        with self.log.open("rb") as file:
            file.seek(self._known)
            said = file.read()
        said = said[: said.rfind(b"\n") + 1]
        self._known += len(said)
        return said.decode(errors="replace")

    @property
    def said(self) -> str:
        """All that it has said."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def close(self, moment: float) -> None:
        """Note how it has ended."""
        said, record = self.said, self.record
        record.status, record.exited = self.process.returncode, record.exited or moment
        record.said, record.errors, record.tail = words.found(said), words.found(words.errors(said)), said[-500:]


@dataclass
class Reader:
    """The program that reads a copy's pipe, and appends what it gets to the copy's file."""

    path: Path
    still: bool = False
    slow: bool = False
    hindered_until: float = 0
    lock: Any = field(default_factory=threading.Lock)

    def start(self, run: CopyRun) -> threading.Thread:
        """Read until the run has ended or has been left."""
        thread = threading.Thread(target=self._read, args=[run], daemon=True)
        thread.start()
        return thread

    def _read(self, run: CopyRun) -> None:
        pipe = run.process.stdout
        assert pipe is not None
        with self.path.open("ab", buffering=0) as file, pipe:
            while True:
                if self.still:
                    time.sleep(TICK)
                    continue
                with self.lock:
                    if run.record.left is not None:
                        return
                    os.set_blocking(pipe.fileno(), False)
                    with contextlib.suppress(BlockingIOError):
                        data = os.read(pipe.fileno(), 1 << 14 if self.slow else 1 << 16)
                        if not data:
                            return
                        file.write(data)
                        if not self.slow:
                            continue
                time.sleep(0.15 if self.slow else 0.005)  # 0.1 MB/s

    def leave(self, run: CopyRun) -> None:
        """Go away, with all that the run has written: what is in a pipe whose reader goes is lost with it."""
        run.process.send_signal(signal.SIGSTOP)
        time.sleep(0.1)
        with self.lock, contextlib.suppress(BlockingIOError, ValueError), self.path.open("ab", buffering=0) as file:
            run.record.left = time.monotonic()
            pipe = run.process.stdout
            assert pipe is not None
            try:
                while data := os.read(pipe.fileno(), 1 << 16):
                    file.write(data)
            finally:
                pipe.close()
        run.process.send_signal(signal.SIGCONT)


class Printed:
    """Which messages the copies have printed, and how often."""

    def __init__(self) -> None:
        """Nothing has been printed yet."""
        self._count: Counter[Position] = Counter()
        self.newest = time.monotonic()  # when the last line was seen

    def add(self, position: Position) -> None:
        """Take a message in."""
        self._count[position] += 1
        self.newest = time.monotonic()

    def drop(self, position: Position) -> None:
        """Take a message out that a power cut has taken away."""
        self._count[position] -= 1
        if not self._count[position]:
            del self._count[position]

    def missing(self, wanted: "set[Position]") -> "set[Position]":
        """Return which of these have not been printed."""
        return wanted - self._count.keys()


class Copy:
    """A copy of the script, as a service runs it, with one file for all its runs."""

    def __init__(
        self, number: int, arguments: list[str], directory: Path, piped: bool, printed: Printed, seed: int
    ) -> None:
        """Make its files; `arguments` are the script and its own."""
        self.number, self.directory, self.printed = number, directory, printed
        self._dice = random.Random(f"{seed}/{number}/cut")
        self.path = directory / f"copy-{number}.jsonl"
        self.path.touch()
        self.synced = directory / f"copy-{number}.synced"
        self.synced.write_bytes(b"%20d" % 0)
        self.slow, self.stuck = directory / f"copy-{number}.slow", directory / f"copy-{number}.stuck"
        self.command = [sys.executable, str(WRAPPER), str(directory), f"copy-{number}", *arguments]
        self.reader = Reader(self.path) if piped else None
        self.thread: threading.Thread | None = None
        self.runs: list[CopyRun] = []
        self.wanted = False
        self.again = 0.0  # when it may be started
        self._read = 0
        self._rest = b""

    @property
    def run(self) -> CopyRun | None:
        """The run that has not ended."""
        return self.runs[-1] if self.runs and self.runs[-1].record.status is None else None

    def start(self) -> Run:
        """Start it; return the record of its run."""
        name = f"copy-{self.number}-run-{len(self.runs) + 1}.log"
        log = self.directory / name
        with self.path.open("ab") as out, log.open("wb") as err:
            if self.reader and self._rest:
                out.write(b"\n")  # the half line of a run that was killed
                out.flush()
            process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if self.reader else out,
                stderr=err,
                env=user_environment(),
            )
        record = Run(name, time.monotonic(), copy=self.number, piped=self.reader is not None)
        self.runs.append(CopyRun(process, log, record))
        self.thread = self.reader.start(self.runs[-1]) if self.reader else None
        return record

    def look(self) -> CopyRun | None:
        """Take what has been printed since the last look; return the run where it has ended by now."""
        run = self.run
        if run is None:
            return None
        over = run.process.poll() is not None
        if over and run.record.exited is None:
            run.record.exited = time.monotonic()
        if self.reader is not None:
            run.record.hindered_until = self.reader.hindered_until
        if over and self.thread is not None and self.thread.is_alive():
            return None  # its pipe has yet to be read out
        now = time.monotonic()
        self._take(run, now)
        if not over:
            return None
        run.record.half = str(self._rest[:80]) if self._rest and run.writes else ""
        run.close(now)
        if run.record.how == "power cut" or (run.record.in_order and self.reader is None):
            self._cut_power()  # also where it has ended in order: it has synced all that it printed
        return run

    def _take(self, run: CopyRun, now: float) -> None:
        with self.path.open("rb") as file:
            file.seek(self._read)
            data = file.read()
        begin = self._read - len(self._rest)
        self._read += len(data)
        if data and not run.writes and self._rest:
            if not data.startswith(b"\n"):
                run.record.joined.append(str(data[:80]))
            begin += len(self._rest) + 1
            data, self._rest = data[1:], b""
        run.writes = run.writes or data != b""
        *whole, self._rest = (self._rest + data).split(b"\n")
        for text in whole:
            begin += len(text) + 1
            self._take_line(run.record, text, now, begin)

    def _take_line(self, record: Run, text: bytes, now: float, end: int) -> None:
        try:
            found = json.loads(text)
            line = Line(found["partition"], found["offset"], digest(value_of(found)), now, end)
        except (ValueError, KeyError, TypeError):
            record.broken.append(str(text[:80]))
            return
        record.lines.append(line)
        self.printed.add(line.position)

    def _cut_power(self) -> None:
        """Leave of the file what has been synced, and perhaps a part of the rest, as a machine does that dies."""
        synced = int(self.synced.read_bytes())
        if synced >= self._read:
            return
        partly = self._dice.choice([False, True])
        size = self._dice.randrange(synced, self._read) if partly else synced
        os.truncate(self.path, size)
        for run in self.runs:
            kept = [line for line in run.record.lines if line.end <= size]
            for line in run.record.lines[len(kept) :]:
                self.printed.drop(line.position)
            run.record.lines = kept
        data = self.path.read_bytes()
        self._read, self._rest = size, data[data.rfind(b"\n") + 1 :]
