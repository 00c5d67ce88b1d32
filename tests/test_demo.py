"""demo.py as a user runs it: in a terminal, in a pipe, stopped early and late, and without a network."""

import contextlib
import fcntl
import json
import os
import pty
import shlex
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from broker import USER
from conftest import ROOT
from feed import transaction_block

COMMAND = [sys.executable, str(ROOT / "tests" / "demo.py")]
SAMPLE = json.loads((ROOT / "tests" / "data" / "tron_transaction.json").read_text(encoding="utf-8"))


def shape(value: Any) -> Any:
    """Return a JSON value with its keys only."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items()}
    return [shape(inner) for inner in value] if isinstance(value, list) else None


def assert_is_a_block(text: str | bytes) -> None:
    """Check that it is JSON with the sample's keys, and that its transactions are shaped as some of the sample's."""
    block = shape(json.loads(text))
    sample = shape(SAMPLE)
    transactions = sample.pop("Transactions")
    assert all(transaction in transactions for transaction in block.pop("Transactions"))
    assert block == sample


def environment(directory: Path, **variables: str) -> dict[str, str]:
    """Return the variables for a demo whose temporary directory is in `directory`/tmp."""
    (directory / "tmp").mkdir(exist_ok=True)
    return {**os.environ, "TMPDIR": str(directory / "tmp"), **variables}


class Terminal:
    """A terminal with nothing in it but the demo. What comes from the demo is read all the time."""

    def __init__(self, directory: Path) -> None:
        """Start the demo with `directory` as its current one."""
        self.directory = directory
        self.output = b""
        self.keyboard, screen = pty.openpty()
        self.process = subprocess.Popen(
            COMMAND,
            stdin=screen,
            stdout=screen,
            stderr=screen,
            cwd=directory,
            env=environment(directory),
            start_new_session=True,
            # Only in its controlling terminal does Ctrl-C become a signal.
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(screen)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # how Linux reports that nobody has the terminal open any more
            while piece := os.read(self.keyboard, 65536):
                self.output += piece

    @property
    def lines(self) -> list[str]:
        """The whole lines on the screen."""
        return self.output[: self.output.rfind(b"\n") + 1].decode().splitlines()

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The messages on the screen."""
        return [json.loads(line) for line in self.lines if line.startswith("{")]

    def wait_for(self, what: Callable[[], Any], seconds: float = 60) -> None:
        """Wait until what() is true; fail with the screen where it never is."""
        deadline = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < deadline, self.output[-3000:].decode()
            assert self.process.poll() is None, self.output[-3000:].decode()
            time.sleep(0.02)

    def press_ctrl_c(self) -> None:
        """What the key does."""
        os.write(self.keyboard, b"\x03")

    def assert_ends_cleanly(self) -> None:
        """Check that the demo ends, well, and that nothing is left of it."""
        processes = psutil.Process(self.process.pid).children(recursive=True)
        assert self.process.wait(30) == 0, self.output[-3000:].decode()
        self._reader.join(10)
        assert psutil.wait_procs(processes, timeout=1)[1] == []
        assert b"Traceback" not in self.output
        assert list((self.directory / "tmp").iterdir()) == []

    def close(self) -> None:
        """Leave no demo behind, whatever has failed."""
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(60)
        self._reader.join(10)
        os.close(self.keyboard)


@pytest.fixture
def terminal(kafka: None, tmp_path: Path) -> Iterator[Terminal]:
    """A terminal in which the demo has just been started."""
    with contextlib.closing(Terminal(tmp_path)) as opened:
        yield opened


def test_stream_in_a_terminal(terminal: Terminal, tmp_path: Path) -> None:
    """The stream, the printed command, and the end by Ctrl-C."""
    terminal.wait_for(lambda: {message["partition"] for message in terminal.messages} == {0, 1, 2})
    for message in terminal.messages:
        assert_is_a_block(message["value"])

    # The printed command, as a second user would run it elsewhere: with a group of its own all partitions are its own.
    command = shlex.split(next(line for line in terminal.lines if "consumer.py" in line))
    config = Path(command[command.index("--config") + 1])
    assert config.stat().st_mode & 0o777 == 0o600
    other = config.with_name("other.ini")
    other.write_text(f"{config.read_text(encoding='utf-8')}group.id = {USER}-other\n", encoding="utf-8")
    other.chmod(0o600)
    command[command.index("--config") + 1] = str(other)
    second = subprocess.run([*command, "--max-messages", "1"], cwd="/", capture_output=True, text=True, timeout=30)
    assert second.returncode == 0, second.stderr
    assert "warning" not in second.stderr
    assert_is_a_block(json.loads(second.stdout)["value"])

    assert len(psutil.Process(terminal.process.pid).children(recursive=True)) == 2  # the broker and the consumer
    terminal.press_ctrl_c()
    terminal.assert_ends_cleanly()
    assert sum(line.partition("stopped: ")[1] != "" for line in terminal.lines) == 1  # the consumer's goodbye


def test_ctrl_c_while_it_starts(terminal: Terminal) -> None:
    """It ends without a word more."""
    terminal.wait_for(lambda: b"starting it" in terminal.output)
    terminal.press_ctrl_c()
    terminal.assert_ends_cleanly()
    assert terminal.messages == []


def test_ctrl_c_again_and_again(terminal: Terminal) -> None:
    """Neither does impatience leave anything behind."""
    terminal.wait_for(lambda: psutil.Process(terminal.process.pid).children())
    for _ in range(10):
        terminal.press_ctrl_c()
        time.sleep(0.05)
    terminal.assert_ends_cleanly()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGHUP])
def test_signal_while_it_starts(terminal: Terminal, how: signal.Signals) -> None:
    """The same where something else than a person ends it, or the terminal is closed."""
    terminal.wait_for(lambda: psutil.Process(terminal.process.pid).children())
    terminal.process.send_signal(how)
    terminal.assert_ends_cleanly()


def test_sigterm(terminal: Terminal) -> None:
    """Which the consumer, too, takes as a reason to say goodbye."""
    terminal.wait_for(lambda: terminal.messages)
    terminal.process.terminate()
    terminal.assert_ends_cleanly()
    assert "stopped: " in terminal.output.decode()


def test_reader_that_has_enough(kafka: None, tmp_path: Path) -> None:
    """`demo.py | head -n 3` ends by itself, quietly."""
    pipe = f"{{ {shlex.join(COMMAND)}; echo status $? >&2; }} | head -n 3"
    shell = subprocess.run(
        ["sh", "-c", pipe], cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True, timeout=60
    )
    lines = shell.stdout.splitlines()
    assert len(lines) == 3
    for line in lines:
        assert_is_a_block(json.loads(line)["value"])
    assert shell.stderr.endswith("status 0\n")
    assert "Traceback" not in shell.stderr
    assert "error" not in shell.stderr.lower()
    assert list((tmp_path / "tmp").iterdir()) == []


def test_no_network_and_no_cache(tmp_path: Path) -> None:
    """One line says why there is no demo."""
    nothing = environment(tmp_path, HOME=str(tmp_path), XDG_CACHE_HOME=str(tmp_path), no_proxy="")
    demo = subprocess.run(
        COMMAND, env={**nothing, "https_proxy": "http://127.0.0.1:9"}, capture_output=True, text=True, timeout=60
    )
    assert demo.returncode == 1
    assert demo.stdout == ""
    *_, last = lines = demo.stderr.splitlines()
    assert last.startswith("error: Kafka could not be downloaded (is there a network?)")
    assert len(lines) == 2


def test_blocks_of_the_feed() -> None:
    """They are the same for the same number, chained, and shaped as the sample."""
    blocks = [transaction_block(number) for number in range(200)]
    assert len(set(blocks)) == 200
    assert transaction_block(7) == blocks[7]
    for block in blocks:
        assert_is_a_block(block)
        assert b", " not in block.replace(b"\\", b"")  # compact
    headers = [json.loads(block)["Header"] for block in blocks]
    assert [header["ParentHash"] for header in headers[1:]] == [header["Hash"] for header in headers[:-1]]
