"""Windows, by simulation: the script without what only Unix has, from its start over a stop to going on."""

import subprocess
import sys
from pathlib import Path

import pytest
from harness.broker import Broker
from harness.environment import SCRIPT, user_environment
from harness.process import Start, seconds_at_most, wait_until_full
from harness.settings import settings, write_config
from harness.words import BLOCKED

# A real one refuses set_blocking for consoles and files, and has another error for a pipe whose reader has gone.
SITECUSTOMIZE = """\
import builtins, errno, io, os, select, shutil, signal, sys

for module in ("fcntl", "grp", "pwd", "resource", "termios"):
    sys.modules[module] = None
for module, names in {
    os: "fchmod fork get_blocking geteuid getpgid getuid killpg",
    select: "epoll poll",
    signal: "ITIMER_REAL SIGALRM SIGHUP SIGPIPE SIG_BLOCK SIG_UNBLOCK alarm pause pthread_sigmask setitimer sigwait",
}.items():
    for name in names.split():
        delattr(module, name)
os.name = "nt"

def set_blocking(descriptor, blocking):
    raise OSError(errno.EINVAL, "Invalid function")

class File(io.FileIO):
    def write(self, data):
        try:
            return super().write(data)
        except BrokenPipeError:
            raise OSError(errno.EINVAL, "Invalid argument") from None

def open_raw(file, mode="r", buffering=-1, *arguments, **keys):
    if buffering == 0:
        return File(file, mode, closefd=keys.get("closefd", True))
    return io.open(file, mode, buffering, *arguments, **keys)

os.set_blocking = set_blocking
builtins.open = open_raw
"""


@pytest.fixture
def windows(tmp_path: Path) -> dict[str, str]:
    """The environment in which Python finds itself without what only Unix has."""
    (tmp_path / "sitecustomize.py").write_text(SITECUSTOMIZE)
    return user_environment(PYTHONPATH=str(tmp_path))


def test_it_reads_is_stopped_and_resumes(broker: Broker, topic: str, start: Start, windows: dict[str, str]) -> None:
    keys = settings(broker)
    for first in (0, 5):
        broker.produce(topic, [b"x"] * 5)
        run = start(keys, topic, env=windows)
        run.wait_for_lines(5)
        with seconds_at_most(5):
            assert run.stop() == 0
        assert [line["offset"] for line in run.lines] == list(range(first, first + 5))
        assert "stopped: 5 messages" in run.stderr
        assert "Traceback" not in run.stderr


def test_a_reader_that_stands_still_does_not_hold_up_the_end(
    broker: Broker, topic: str, start: Start, windows: dict[str, str]
) -> None:
    broker.produce(topic, [b"x" * 10_000] * 100)
    run = start(settings(broker), topic, env=windows, stdout=subprocess.PIPE)
    wait_until_full(run.process.stdout)
    with seconds_at_most(7):
        assert run.stop() == 1
    assert BLOCKED in run.stderr


def test_a_reader_that_has_gone_is_a_good_end(
    broker: Broker, topic: str, start: Start, windows: dict[str, str]
) -> None:
    broker.produce(topic, [b"x"] * 1000)
    run = start(settings(broker), topic, env=windows, stdout=subprocess.PIPE)
    assert run.process.stdout is not None
    run.process.stdout.readline()
    run.process.stdout.close()
    broker.produce(topic, [b"x"])
    assert run.end() == 0
    assert "error" not in run.stderr


def test_what_others_may_read_is_not_asked_in_the_way_of_unix(
    broker: Broker, topic: str, windows: dict[str, str], tmp_path: Path
) -> None:
    """And how to copy the example is said in the words of Windows."""
    broker.produce(topic, [b"x"])
    config = write_config(tmp_path / "config.ini", settings(broker))
    config.chmod(0o644)
    command = [sys.executable, str(SCRIPT), "--topic", topic, "--config"]
    ended = subprocess.run([*command, str(config), "--max-messages", "1"], env=windows, capture_output=True, text=True)
    assert ended.returncode == 0
    assert "warning" not in ended.stderr
    ended = subprocess.run([*command, "nowhere.ini"], cwd=tmp_path, env=windows, capture_output=True, text=True)
    path = tmp_path / "nowhere.ini"
    assert ended.stderr == f"error: {path} not found: copy the example (copy config.example.ini {path}) and edit it\n"
