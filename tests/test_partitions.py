"""Where a partition begins: at auto.offset.reset only for a group that knows none, and nothing after that is missed."""

import signal
import time

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import NewPartitions
from harness.broker import Broker, wait
from harness.process import Run, Start
from harness.settings import PROTOCOLS, STRATEGIES, Keys, settings
from harness.words import ASSIGNED, WAITS

LATEST: Keys = {"auto.offset.reset": "latest"}
NO_COMMIT: Keys = {"enable.auto.commit": "false"}


def add_partition(broker: Broker, topic: str, count: int) -> None:
    """Give the topic a further partition, so that it has `count`, with five messages."""
    wait(broker.admin.create_partitions([NewPartitions(topic, count)]))
    # The producer learns of it here, and the broker may do so a moment after the controller.
    while len(broker.producer.list_topics(topic, timeout=10).topics[topic].partitions) < count:
        time.sleep(0.1)
    broker.produce(topic, [b"added"] * 5, partition=count - 1)


def printed(run: Run, partition: int) -> list[int]:
    """Return the offsets that a run has printed of a partition."""
    return [line["offset"] for line in run.lines if line["partition"] == partition]


@PROTOCOLS
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["stopped", "killed"])
def test_a_group_that_began_at_the_end_misses_nothing_from_then_on(
    broker: Broker, topic3: str, start: Start, how: int, protocol: Keys
) -> None:
    keys = settings(broker, {**LATEST, **protocol})
    broker.produce(topic3, [b"before"], partition=1)
    first = start(keys, topic3)
    first.wait_for_words(WAITS)
    broker.produce(topic3, [b"x"], partition=0)
    first.wait_for_lines(1)
    first.process.send_signal(how)
    first.end()
    broker.produce(topic3, [b"while it was away"] * 5, partition=1)
    second = start(keys, topic3)
    broker.wait_until_committed(keys["group.id"], topic3, 3)
    assert second.stop() == 0
    assert printed(second, 1) == [1, 2, 3, 4, 5]


@STRATEGIES
def test_a_partition_that_is_added_is_read_from_its_first_message(
    broker: Broker, topic: str, start: Start, protocol: Keys
) -> None:
    keys = settings(broker, {**LATEST, "topic.metadata.refresh.interval.ms": "1000", **protocol})
    run = start(keys, topic)
    run.wait_for_words(WAITS)
    add_partition(broker, topic, 2)
    run.wait_for_lines(5)
    assert run.stop() == 0
    assert printed(run, 1) == list(range(5))


@STRATEGIES
def test_a_partition_that_is_added_while_the_group_is_away_is_read_from_its_first_message(
    broker: Broker, topic: str, start: Start, protocol: Keys
) -> None:
    keys = settings(broker, {**LATEST, **protocol})
    first = start(keys, topic)
    first.wait_for_words(WAITS)
    assert first.stop() == 0
    add_partition(broker, topic, 2)
    second = start(keys, topic)
    broker.wait_until_committed(keys["group.id"], topic, 2)
    assert second.stop() == 0
    assert printed(second, 1) == list(range(5))


@PROTOCOLS
def test_a_copy_that_starts_after_a_partition_was_added_reads_it_from_its_first_message(
    broker: Broker, topic: str, start: Start, protocol: Keys
) -> None:
    keys = settings(broker, {**LATEST, **protocol})
    runs = [start(keys, topic)]
    runs[0].wait_for_words(WAITS)
    add_partition(broker, topic, 2)
    runs.append(start(keys, topic))
    broker.wait_until_committed(keys["group.id"], topic, 2)
    assert [run.stop() for run in runs] == [0, 0]
    assert sorted(offset for run in runs for offset in printed(run, 1)) == list(range(5))


def test_a_partition_that_is_added_after_from_end_is_read_from_its_first_message(
    broker: Broker, topic: str, start: Start
) -> None:
    broker.produce(topic, [b"before"] * 5)
    keys = settings(broker, LATEST)
    first = start(keys, topic, "--from", "end")
    first.wait_for_words("starts at ")
    assert first.stop() == 0
    add_partition(broker, topic, 2)
    second = start(keys, topic)
    second.wait_for_lines(5)
    assert second.stop() == 0
    assert (printed(second, 0), printed(second, 1)) == ([], list(range(5)))


@PROTOCOLS
def test_two_copies_of_a_new_group_begin_at_the_end_of_all_partitions(
    broker: Broker, topic3: str, start: Start, protocol: Keys
) -> None:
    """What one of them has committed first does not make the other take the group for an old one."""
    for partition in range(3):
        broker.produce(topic3, [b"before"] * 100, partition=partition)
    keys = settings(broker, {**LATEST, **protocol})
    runs = [start(keys, topic3), start(keys, topic3)]
    for run in runs:
        run.wait_for_words(ASSIGNED)
    for partition in range(3):
        broker.produce(topic3, [b"after"], partition=partition)
    broker.wait_until_committed(keys["group.id"], topic3, 3)
    assert [run.stop() for run in runs] == [0, 0]
    found = [(line["partition"], line["offset"]) for run in runs for line in run.lines]
    assert sorted(found) == [(0, 100), (1, 100), (2, 100)]


@PROTOCOLS
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
def test_one_group_for_two_topics_misses_nothing_and_prints_nothing_old(
    broker: Broker, topic: str, topic3: str, start: Start, how: int, protocol: Keys
) -> None:
    """The group has members of the other topic, so that Kafka refuses a commit before the first assignment."""
    keys = settings(broker, {**LATEST, **protocol})
    other = start(keys, topic3)
    other.wait_for_words(ASSIGNED)
    broker.produce(topic, [b"before"] * 200)
    first = start(keys, topic)
    broker.wait_until_committed(keys["group.id"], topic, 1)  # where it begins
    first.process.send_signal(how)
    first.end()
    assert first.lines == []
    broker.produce(topic, [b"while it was away"] * 10)
    second = start(keys, topic)
    second.wait_for_lines(10)
    broker.produce(topic3, [b"for the other"], partition=2)
    other.wait_for_lines(1)
    assert [run.stop() for run in (second, other)] == [0, 0]
    assert printed(second, 0) == list(range(200, 210))


def test_a_second_topic_that_is_made_anew_is_read_from_its_oldest_message(
    broker: Broker, topic3: str, start: Start
) -> None:
    """Where the topic before it was begun at, which Kafka let be committed at the assignment only, is forgotten."""
    topic = broker.create_topic("tron.second-anew")
    keys = settings(broker, {**LATEST, "topic.metadata.propagation.max.ms": "3000"})
    other = start(keys, topic3)
    other.wait_for_words(ASSIGNED)
    broker.produce(topic, [b"before"] * 20)
    run = start(keys, topic)
    broker.wait_until_committed(keys["group.id"], topic, 1)  # where it begins
    time.sleep(4)  # until the client library no longer waits for the topic to come
    broker.delete_topic(topic)
    run.wait_for_words("partition is no longer available")
    time.sleep(2)  # in which the client is told that there is no topic, too
    broker.create_topic(topic)
    broker.produce(topic, [b"new"] * 30)
    run.wait_for(lambda run: set(printed(run, 0)) == set(range(30)), 90)  # it may first go on where it was
    assert [run.stop(), other.stop()] == [0, 0]


@PROTOCOLS
def test_two_copies_of_a_second_topic_go_on_where_they_stopped(
    broker: Broker, topic: str, topic3: str, start: Start, protocol: Keys
) -> None:
    """The one that goes on has its partitions from where the other was, and not from where it was itself started."""
    keys = settings(broker, {**LATEST, **protocol})
    other = start(keys, topic)
    other.wait_for_words(ASSIGNED)
    runs = [start(keys, topic3), start(keys, topic3)]
    for run in runs:
        run.wait_for_words(ASSIGNED)
    for number in range(2):
        for partition in range(3):
            broker.produce(topic3, [b"x"] * 5, partition=partition)
        broker.wait_until_committed(keys["group.id"], topic3, 3)
        assert runs[number].stop() == 0
    assert other.stop() == 0
    found = sorted((line["partition"], line["offset"]) for run in runs for line in run.lines)
    assert found == sorted(broker.messages(topic3, 3))


@PROTOCOLS
def test_without_auto_commit_a_new_group_begins_at_the_end_each_time_and_leaves_no_trace(
    broker: Broker, topic3: str, start: Start, protocol: Keys
) -> None:
    keys = settings(broker, {**LATEST, **NO_COMMIT, **protocol})
    for number in range(2):
        broker.produce(topic3, [b"before"] * 5, partition=1)
        run = start(keys, topic3)
        run.wait_for_words(ASSIGNED)
        time.sleep(1)  # until the client library has asked where the partitions end
        broker.produce(topic3, [b"after"], partition=1)
        run.wait_for_lines(1)
        time.sleep(0.5)
        assert run.stop() == 0
        assert printed(run, 1) == [number * 6 + 5]
    assert broker.committed(keys["group.id"], topic3, 3) == [-1001] * 3


def test_a_group_whose_messages_were_deleted_goes_on_with_the_oldest_that_is_left(
    broker: Broker, topic: str, start: Start
) -> None:
    """Also with auto.offset.reset = latest, which says where a new group begins."""
    keys = settings(broker, LATEST)
    first = start(keys, topic)
    first.wait_for_words(WAITS)
    assert first.stop() == 0
    broker.produce(topic, [b"x"] * 100)
    broker.delete_records(topic, before=50)
    second = start(keys, topic, "--max-messages", "50")
    assert second.end() == 0
    assert printed(second, 0) == list(range(50, 100))
    assert second.stderr.count("warning: messages were deleted before they were read") == 1


def test_a_group_that_has_been_forgotten_begins_at_auto_offset_reset(broker: Broker, topic: str, start: Start) -> None:
    """As after offsets.retention.minutes, which makes a broker forget all of a group."""
    keys = settings(broker, LATEST)
    broker.produce(topic, [b"x"] * 5)
    first = start(keys, topic, "--from", "beginning", "--max-messages", "5")
    assert first.end() == 0
    wait(broker.admin.delete_consumer_groups([keys["group.id"]]))
    second = start(keys, topic)
    second.wait_for_words(WAITS)
    broker.produce(topic, [b"y"])
    second.wait_for_lines(1)
    assert second.stop() == 0
    assert printed(second, 0) == [5]


def test_auto_offset_reset_error_ends_a_new_group(broker: Broker, topic: str, start: Start) -> None:
    run = start(settings(broker, {"auto.offset.reset": "error"}), topic)
    assert run.end() == 1
    assert "error: auto.offset.reset = error, and there is no offset to begin at" in run.stderr


def test_a_partition_whose_offset_alone_is_missing_is_read_from_its_first_message(
    broker: Broker, topic3: str, start: Start
) -> None:
    """As of a group that another client has used, which commits only what it has read."""
    for partition in range(3):
        broker.produce(topic3, [b"x"] * 5, partition=partition)
    keys = settings(broker, LATEST)
    committed = ConsumerGroupTopicPartitions(keys["group.id"], [TopicPartition(topic3, 0, 5)])
    wait(broker.admin.alter_consumer_group_offsets([committed]))
    run = start(keys, topic3)
    broker.wait_until_committed(keys["group.id"], topic3, 3)
    assert run.stop() == 0
    assert [printed(run, partition) for partition in range(3)] == [[], list(range(5)), list(range(5))]
