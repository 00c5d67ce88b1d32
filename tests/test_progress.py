"""What standard error tells of where the consumer stands, and --from, which says where it starts."""

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from pathlib import Path
from typing import Any

import pytest
from broker import Broker
from conftest import PROTOCOLS, Start, settings
from test_delivery import committed

HOUR = 3_600_000


# ---- progress ------------------------------------------------------------------------------------------------------


class Terminal:
    """A pseudo-terminal, and what has been written to it."""

    def __init__(self, columns: int = 80) -> None:
        self.ours, self.theirs = pty.openpty()
        fcntl.ioctl(self.theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.text = ""

    def read(self, seconds: float, until: str | None = None) -> str:
        """Read for so long, or until a regular expression is found."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0 and not (until and re.search(until, self.text)):
            if select.select([self.ours], [], [], left)[0]:
                with contextlib.suppress(OSError):  # EIO: the last process has closed it
                    self.text += os.read(self.ours, 65536).decode()
        assert not until or re.search(until, self.text), f"no {until!r} in {self.text!r}"
        return self.text

    def screen(self) -> list[str]:
        """Return the lines that a person sees, after carriage returns and erasures."""
        return [line.rpartition("\x1b[K")[2].rstrip("\r") for line in self.text.split("\n")]


def test_a_progress_line_on_a_terminal(broker: Broker, topic: str, start: Start) -> None:
    broker.produce(topic, [b"x" * 100] * 500)
    terminal = Terminal()
    run = start(settings(broker), topic, stderr=terminal.theirs)
    terminal.read(10, until=r"500 messages, \d+/s, \d+\.\d MB/s, lag 0, newest 0:00:\d\d old")
    broker.produce(topic, [b"x" * 100] * 500)
    terminal.read(10, until=r"1000 messages, \d+/s, \d+\.\d MB/s, lag 0, newest 0:00:0\d old")
    assert len(terminal.screen()) == 2  # the line about the start, and one that is rewritten
    assert run.stop() == 0
    terminal.read(1)
    lines = terminal.screen()
    assert len(lines) == 4
    assert lines[0] == f"{topic}: 1 of 1 partitions, group {settings_group(run)}: starts at the beginning"
    assert lines[1].startswith("1000 messages")
    assert lines[2].startswith("stopped: 1000 messages")
    assert lines[3] == ""


def settings_group(run: Any) -> str:
    """Return the group.id of a run."""
    config = Path(run.process.args[run.process.args.index("--config") + 1]).read_text()
    return str(re.search("group.id = (.*)", config)[1])  # type: ignore[index]


def test_the_progress_line_fits_the_terminal(broker: Broker, topic: str, start: Start) -> None:
    broker.produce(topic, [b"x"])
    terminal = Terminal(columns=20)
    start(settings(broker), topic, stderr=terminal.theirs)
    terminal.read(10, until="1 messages")
    terminal.read(0.5)
    assert re.fullmatch(r"1 messages, \d/s, 0\.", terminal.screen()[-1])


def test_the_progress_line_is_cleared_before_a_warning(own_broker: Broker, start: Start) -> None:
    topic = own_broker.create_topic("tron.clear")
    own_broker.produce(topic, [b"x"])
    terminal = Terminal()
    run = start(settings(own_broker), topic, stderr=terminal.theirs)
    terminal.read(10, until="1 messages")
    own_broker.stop(signal.SIGKILL)
    terminal.read(10, until="warning: ")
    terminal.read(2, until=r"again until it works\r\n1 messages")
    assert re.search(r"\r\x1b\[Kwarning: ", terminal.text)
    assert any(line.startswith("warning: ") for line in terminal.screen())
    run.kill()


def test_no_progress_among_the_messages(broker: Broker, topic: str, start: Start) -> None:
    broker.produce(topic, [b"x"])
    terminal = Terminal()
    run = start(settings(broker), topic, stdout=terminal.theirs, stderr=terminal.theirs)
    terminal.read(3)
    assert run.stop() == 0
    terminal.read(1)
    lines = terminal.screen()
    assert len(lines) == 4  # start, message, end, and nothing
    assert json.loads(lines[1]) == {"partition": 0, "offset": 0, "value": "x"}
    assert lines[2].startswith("stopped: 1 messages")


def test_a_line_a_minute_in_a_log(broker: Broker, topic: str, start: Start) -> None:
    broker.produce(topic, [b"x"] * 10)
    run = start(settings(broker), topic)
    run.wait_for(lambda run: run.stderr.count("\n") == 2, 70)
    line = run.stderr.splitlines()[1]
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d 10 messages, 0/s, 0\.0 MB/s, lag 0, newest 0:01:0\d old", line
    )
    assert run.stop() == 0
    assert run.stderr.count("\n") == 3


def test_quiet_leaves_warnings_and_errors(broker: Broker, topic: str, start: Start) -> None:
    broker.produce(topic, [b"x"])
    keys = settings(broker)
    assert start(keys, topic, "--quiet", "--max-messages", "1").end() == 0
    broker.delete_records(topic, before=1)
    terminal = Terminal()
    run = start(keys, topic, "--quiet", "--from", "beginning", stderr=terminal.theirs)
    terminal.read(3)
    assert run.stop() == 0
    assert terminal.text == ""
    run = start({**keys, "sasl.password": "wrong"}, topic, "--quiet")
    assert run.end() == 1
    assert run.stderr.startswith("error: ")


@PROTOCOLS
def test_the_lag_of_all_partitions_goes_to_zero(
    broker: Broker, topic3: str, start: Start, protocol: dict[str, str]
) -> None:
    for partition in range(3):
        broker.produce(topic3, [b"x" * 1000] * 2000, partition=partition)
    terminal = Terminal()
    run = start(settings(broker, **protocol), topic3, stdout=subprocess.PIPE, stderr=terminal.theirs)
    assert run.process.stdout is not None
    lines = 0
    deadline = time.monotonic() + 2.5  # a slow reader: the lag is seen to be large first
    while time.monotonic() < deadline:
        lines += os.read(run.process.stdout.fileno(), 65536).count(b"\n")
        time.sleep(0.05)
    terminal.read(5, until=r"lag [1-9]\d{2,}")
    printed, lag = re.findall(r"(\d+) messages, .*?lag (\d+)", terminal.text)[0]
    assert int(printed) + int(lag) == 6000
    while lines < 6000:
        lines += os.read(run.process.stdout.fileno(), 65536).count(b"\n")
    terminal.read(5, until=r"6000 messages, .*?lag 0,")
    assert run.stop() == 0


def test_the_summary_of_a_run(broker: Broker, topic3: str, start: Start) -> None:
    for partition in range(3):
        broker.produce(topic3, [b"x"] * 10, partition=partition)
    keys = settings(broker)
    run = start(keys, topic3, "--max-messages", "30")
    assert run.end() == 0
    assert re.search(r"^stopped: 30 messages in 0:00:0\d, offsets 0 to 9 in 3 partitions, lag 0$", run.stderr, re.M)
    run = start({**keys, "auto.offset.reset": "latest"}, topic3)
    run.wait_for_words("resumes")
    assert run.stop() == 0
    assert re.search(r"^stopped: 0 messages in 0:00:0\d, lag 0$", run.stderr, re.M)


def test_a_new_group_tells_whether_it_waits_or_starts_at_the_beginning(
    broker: Broker, topic: str, start: Start
) -> None:
    for reset, words in (("latest", "waits for new messages"), ("earliest", "starts at the beginning")):
        keys = settings(broker, auto__offset__reset=reset)
        run = start(keys, topic)
        run.wait_for_words(f"{topic}: 1 of 1 partitions, group {keys['group.id']}: {words}")
        assert run.stop() == 0


# ---- --from --------------------------------------------------------------------------------------------------------


@pytest.fixture
def dated(broker: Broker, topic3: str) -> str:
    """A topic with ten messages in each of two partitions, one an hour, the newest of them half an hour old."""
    now = int(time.time() * 1000)
    for partition in (0, 1):
        for number in range(10):
            broker.producer.produce(
                topic3, b"%d" % number, partition=partition, timestamp=now - HOUR // 2 - (9 - number) * HOUR
            )
    assert broker.producer.flush(10) == 0
    return topic3


def iso(seconds_ago: float, form: str) -> str:
    """Return a time in the past in local time (no zone), UTC (Z) or with an offset."""
    moment = time.time() - seconds_ago
    if form == "Z":
        return time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime(moment))
    if form == "+":
        return time.strftime("%Y-%m-%dT%H:%M:%S+02:00", time.gmtime(moment + 7200))
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(moment))


@PROTOCOLS
@pytest.mark.parametrize(
    ("point", "first"),
    [
        ("beginning", 0),
        ("end", 10),
        ("40m", 9),
        ("2h", 8),
        ("1d", 0),
        ("5m", 10),
        (iso(3 * 3600, ""), 7),
        (iso(4 * 3600, "Z"), 6),
        (iso(5 * 3600, "+"), 5),
        ("2001-01-01T00:00", 0),
    ],
    ids=[
        "beginning",
        "end",
        "minutes",
        "hours",
        "a day",
        "after the last",
        "local",
        "UTC",
        "offset",
        "before retention",
    ],
)
def test_from(broker: Broker, dated: str, start: Start, point: str, first: int, protocol: dict[str, str]) -> None:
    keys = settings(broker, **protocol)
    assert start(keys, dated, "--max-messages", "3").end() == 0  # the group has a position, which is moved
    run = start(keys, dated, "--from", point)
    run.wait_for_words("starts where --from says")
    assert (
        f"--from: partition 0 at offset {first}, partition 1 at offset {first}, partition 2 at offset 0" in run.stderr
    )
    run.wait_for_lines(2 * (10 - first))
    assert run.stop() == 0
    assert [line["offset"] for line in run.lines if line["partition"] == 1] == list(range(first, 10))
    assert committed(broker, keys, dated, 2) == [10, 10]


def test_a_restart_without_from_resumes(broker: Broker, dated: str, start: Start) -> None:
    keys = settings(broker)
    first = start(keys, dated, "--from", "2h", "--max-messages", "1")
    second = start(keys, dated, "--max-messages", "3") if first.end() == 0 else first
    assert second.end() == 0
    assert sorted(line["offset"] for run in (first, second) for line in run.lines) == [8, 8, 9, 9]


def test_from_without_auto_commit(broker: Broker, dated: str, start: Start) -> None:
    keys = settings(broker, enable__auto__commit="false")
    run = start(keys, dated, "--from", "2h", "--max-messages", "4")
    assert run.end() == 0
    assert sorted(line["offset"] for line in run.lines) == [8, 8, 9, 9]
    assert committed(broker, keys, dated, 3) == [8, 8, 0]


def test_from_tells_a_range_for_many_partitions(broker: Broker, start: Start) -> None:
    topic = broker.create_topic("tron.many", partitions=12)
    broker.produce(topic, [b"x"] * 5, partition=3)
    run = start(settings(broker), topic, "--from", "end")
    run.wait_for_words("--from: 12 partitions at offsets 0 to 5")


@PROTOCOLS
def test_from_moves_nothing_while_the_group_is_in_use(
    broker: Broker, dated: str, start: Start, protocol: dict[str, str]
) -> None:
    keys = settings(broker, **protocol)
    other = start(keys, dated)
    other.wait_for_lines(20)
    assert other.stop() == 0
    other = start(keys, dated)
    other.wait_for_words("resumes")
    run = start(keys, dated, "--from", "beginning")
    assert run.end() == 1
    assert f"group {keys['group.id']} is in use" in run.stderr
    assert "session.timeout.ms" in run.stderr
    assert run.lines == []
    assert committed(broker, keys, dated, 2) == [10, 10]
    assert other.stop() == 0


def test_from_with_a_group_of_others(broker: Broker, dated: str, start: Start) -> None:
    run = start(settings(broker, group__id="somebody-else"), dated, "--from", "beginning")
    assert run.end(15) == 1
    assert "group.id must begin with the username" in run.stderr


def test_from_that_is_refused_moves_nothing(broker: Broker, dated: str, start: Start) -> None:
    keys = settings(broker)
    assert start(keys, dated, "--max-messages", "20").end() == 0
    assert start(keys, dated, "--from", "2999-01-01T00:00").end() == 2
    assert start(keys, dated, "--from", "yesterday").end() == 2
    assert start({**keys, "sasl.password": "wrong"}, dated, "--from", "beginning").end() == 1
    assert committed(broker, keys, dated, 2) == [10, 10]
