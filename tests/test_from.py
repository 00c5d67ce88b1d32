"""--from: the group starts where it says, or nothing is moved."""

import time

import pytest
from harness.broker import Broker
from harness.process import Start
from harness.settings import PROTOCOLS, Keys, settings
from harness.words import RESUMES

HOUR = 3_600_000  # milliseconds


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
def test_from(broker: Broker, dated: str, start: Start, point: str, first: int, protocol: Keys) -> None:
    keys = settings(broker, protocol)
    assert start(keys, dated, "--max-messages", "3").end() == 0  # the group has a position, which is moved
    run = start(keys, dated, "--from", point)
    run.wait_for_words("starts at ")
    run.wait_for_lines(2 * (10 - first))
    assert run.stop() == 0
    assert [line["offset"] for line in run.lines if line["partition"] == 1] == list(range(first, 10))
    assert broker.committed(keys["group.id"], dated, 2) == [10, 10]


def test_a_restart_without_from_resumes(broker: Broker, dated: str, start: Start) -> None:
    keys = settings(broker)
    first = start(keys, dated, "--from", "2h", "--max-messages", "1")
    second = start(keys, dated, "--max-messages", "3") if first.end() == 0 else first
    assert second.end() == 0
    assert sorted(line["offset"] for run in (first, second) for line in run.lines) == [8, 8, 9, 9]


def test_from_without_auto_commit(broker: Broker, dated: str, start: Start) -> None:
    keys = settings(broker, {"enable.auto.commit": "false"})
    run = start(keys, dated, "--from", "2h", "--max-messages", "4")
    assert run.end() == 0
    assert sorted(line["offset"] for line in run.lines) == [8, 8, 9, 9]
    assert broker.committed(keys["group.id"], dated, 3) == [8, 8, 0]


@PROTOCOLS
def test_from_moves_nothing_while_the_group_is_in_use(broker: Broker, dated: str, start: Start, protocol: Keys) -> None:
    keys = settings(broker, protocol)
    other = start(keys, dated)
    other.wait_for_lines(20)
    assert other.stop() == 0
    other = start(keys, dated)
    other.wait_for_words(RESUMES)
    run = start(keys, dated, "--from", "beginning")
    assert run.end() == 1
    assert f"group {keys['group.id']} is in use" in run.stderr
    assert "session.timeout.ms" in run.stderr
    assert run.lines == []
    assert broker.committed(keys["group.id"], dated, 2) == [10, 10]
    assert other.stop() == 0


def test_from_while_a_static_member_is_expected_back(broker: Broker, dated: str, start: Start) -> None:
    """It does not leave the group when it stops, and Kafka refuses the commit in other words."""
    keys = settings(broker, {"group.instance.id": "one"})
    first = start(keys, dated)
    first.wait_for_lines(20)
    assert first.stop() == 0
    run = start(keys, dated, "--from", "beginning")
    assert run.end() == 1
    assert f"group {keys['group.id']} is in use" in run.stderr


def test_from_with_a_group_of_others(broker: Broker, dated: str, start: Start) -> None:
    run = start(settings(broker, {"group.id": "somebody-else"}), dated, "--from", "beginning")
    assert run.end(15) == 1
    assert "check group.id (Bitquery" in run.stderr


def test_from_that_is_refused_moves_nothing(broker: Broker, dated: str, start: Start) -> None:
    keys = settings(broker)
    assert start(keys, dated, "--max-messages", "20").end() == 0
    assert start(keys, dated, "--from", "2999-01-01T00:00").end() == 2
    assert start(keys, dated, "--from", "yesterday").end() == 2
    assert start({**keys, "sasl.password": "wrong"}, dated, "--from", "beginning").end() == 1
    assert broker.committed(keys["group.id"], dated, 2) == [10, 10]
