"""--exit-at-end: everything that the topic held at the start is printed, and then the run ends with 0."""

import re
import subprocess
import threading
import time

import pytest
from confluent_kafka import Producer
from harness.broker import Broker
from harness.process import Run, Start, offsets, wait_until_full
from harness.settings import COOPERATIVE, PROTOCOLS, STRATEGIES, Keys, settings
from harness.words import GREETING

END = "--exit-at-end"


def fill(broker: Broker, topic: str, count: int, partitions: int = 3) -> set[tuple[int, int]]:
    """Produce `count` messages to each partition; return the (partition, offset) of all that the topic has."""
    for partition in range(partitions):
        broker.produce(topic, [b"x" * 100] * count, partition=partition)
    return broker.messages(topic, partitions)


def ends_well(run: Run, seconds: float = 20) -> None:
    """Check that it ends by itself, with 0."""
    assert run.end(seconds) == 0, run.stderr


@PROTOCOLS
def test_all_is_printed_and_the_next_run_prints_what_came_since(
    broker: Broker, topic3: str, start: Start, protocol: Keys
) -> None:
    keys = settings(broker, protocol)
    held = fill(broker, topic3, 1000)
    first = start(keys, topic3, END)
    ends_well(first)
    assert offsets([first]) == dict.fromkeys(held, 1)
    since = fill(broker, topic3, 10) - held
    second = start(keys, topic3, END)
    ends_well(second)
    assert offsets([second]) == dict.fromkeys(since, 1)
    third = start(keys, topic3, END)
    ends_well(third)
    assert third.lines == []


def test_a_topic_with_an_empty_partition(broker: Broker, topic3: str, start: Start) -> None:
    broker.produce(topic3, [b"x"] * 5, partition=1)
    run = start(settings(broker), topic3, END)
    ends_well(run)
    assert len(run.lines) == 5


def test_an_empty_topic(broker: Broker, topic3: str, start: Start) -> None:
    run = start(settings(broker), topic3, END)
    ends_well(run)
    assert run.lines == []


def test_a_topic_whose_messages_were_deleted(broker: Broker, topic: str, start: Start) -> None:
    broker.produce(topic, [b"x"] * 10)
    broker.delete_records(topic, before=10)
    run = start(settings(broker), topic, END)
    ends_well(run)
    assert run.lines == []


@pytest.mark.parametrize(("point", "count"), [("beginning", 20), ("end", 0), ("2h", 10)])
def test_from_and_to_the_end_is_a_dump(broker: Broker, topic: str, start: Start, point: str, count: int) -> None:
    now = int(time.time() * 1000)
    for hours_ago in (3, 1):
        for _ in range(10):
            broker.producer.produce(topic, b"x", partition=0, timestamp=now - hours_ago * 3_600_000)
    assert broker.producer.flush(10) == 0
    run = start(settings(broker, {"auto.offset.reset": "latest"}), topic, "--from", point, END)
    ends_well(run)
    assert [line["offset"] for line in run.lines] == list(range(20 - count, 20))


def test_a_new_group_that_begins_at_the_end_has_nothing_to_print(broker: Broker, topic3: str, start: Start) -> None:
    fill(broker, topic3, 10)
    run = start(settings(broker, {"auto.offset.reset": "latest"}), topic3, END)
    ends_well(run)
    assert run.lines == []


def test_a_busy_topic_ends_too(broker: Broker, topic3: str, start: Start) -> None:
    held = fill(broker, topic3, 5000)
    stop = threading.Event()

    def feed() -> None:
        while not stop.is_set():
            for partition in range(3):
                broker.producer.produce(topic3, b"y" * 100, partition=partition)
            broker.producer.flush(10)

    feeding = threading.Thread(target=feed)
    feeding.start()
    try:
        run = start(settings(broker), topic3, END)
        ends_well(run)
    finally:
        stop.set()
        feeding.join()
    assert set(offsets([run])) >= held


def test_the_marker_of_a_transaction_may_be_last(broker: Broker, topic: str, start: Start) -> None:
    producer = Producer({"bootstrap.servers": broker.address("PLAINTEXT"), "transactional.id": topic, "log_level": 0})
    producer.init_transactions(30)
    for ends in (producer.commit_transaction, producer.abort_transaction):
        producer.begin_transaction()
        for _ in range(5):
            producer.produce(topic, b"x")
        ends(30)
    run = start(settings(broker), topic, END)
    ends_well(run)
    assert [line["offset"] for line in run.lines] == [0, 1, 2, 3, 4]


@PROTOCOLS
def test_two_copies_share_what_there_is(broker: Broker, topic3: str, start: Start, protocol: Keys) -> None:
    keys = settings(broker, protocol)
    held = fill(broker, topic3, 30_000)
    runs = [start(keys, topic3, END), start(keys, topic3, END)]
    for run in runs:
        ends_well(run, 40)
    assert set(offsets(runs)) == held


def test_a_copy_that_takes_over_from_one_that_was_killed_prints_its_part(
    broker: Broker, topic3: str, start: Start
) -> None:
    keys = settings(broker, {"session.timeout.ms": "1500", "heartbeat.interval.ms": "300"})
    held = fill(broker, topic3, 30_000)
    killed = start(keys, topic3, stdout=subprocess.PIPE)
    wait_until_full(killed.process.stdout)
    run = start(keys, topic3, END)
    run.wait_for_words(GREETING)
    time.sleep(1)  # in which it has none: the other one does not answer
    assert run.process.poll() is None
    killed.kill()
    ends_well(run, 40)
    assert killed.process.stdout is not None
    killed.stdout_path.write_bytes(killed.process.stdout.read())
    assert set(offsets([killed, run])) == held


@PROTOCOLS
def test_a_copy_without_a_partition_is_at_its_end_when_the_others_are(
    broker: Broker, topic: str, start: Start, protocol: Keys
) -> None:
    broker.produce(topic, [b"x"] * 10)
    keys = settings(broker, protocol)
    runs = [start(keys, topic, END) for _ in range(3)]
    for run in runs:
        ends_well(run)
    assert set(offsets(runs)) == {(0, n) for n in range(10)}


@STRATEGIES
def test_a_spare_copy_ends_and_says_who_has_the_partitions(
    broker: Broker, topic: str, start: Start, protocol: Keys
) -> None:
    """Though the others go on. Only a classic group tells it that there is nothing for it."""
    broker.produce(topic, [b"x"])
    keys = settings(broker, protocol)
    other = start({**keys, "group.instance.id": "1"}, topic)  # a classic group gives the partition to the first
    other.wait_for_lines(1)
    constants = {"SESSION_SECONDS": 6, "SPARE_SECONDS": 1}
    spare = start({**keys, "group.instance.id": "2"}, topic, END, "--quiet", constants=constants)
    ends_well(spare)
    assert (spare.lines, other.stop()) == ([], 0)
    words = f"other members of group {keys['group.id']} have its partitions"
    assert spare.stderr == f"warning: nothing of {topic} was left to print: {words}\n"


def test_a_new_member_of_a_cooperative_group_waits_for_its_share(broker: Broker, topic3: str, start: Start) -> None:
    """It is first told that it has none, until the others have given theirs up."""
    keys = settings(broker, COOPERATIVE)
    held = fill(broker, topic3, 10)
    other = start(keys, topic3)
    other.wait_for_lines(len(held))
    run = start(keys, topic3, END)
    ends_well(run, 40)
    assert re.search(": assigned [12] partition", run.stderr)
    assert "nothing of" not in run.stderr
    assert other.stop() == 0
    assert offsets([other, run]).keys() == held


def test_a_member_that_waits_for_one_that_was_killed_is_no_spare(broker: Broker, topic: str, start: Start) -> None:
    """However long the session of the one that was killed: only then may a member have nothing to do for good."""
    keys = settings(broker, {**COOPERATIVE, "session.timeout.ms": "9000"})
    killed = start(keys, topic)
    broker.produce(topic, [b"x"])
    killed.wait_for_lines(1)
    killed.kill()
    broker.produce(topic, [b"y"] * 10)
    run = start(keys, topic, END, constants={"SPARE_SECONDS": 4})
    ends_well(run, 40)
    assert run.lines[-1]["offset"] == 10
    assert "nothing of" not in run.stderr
