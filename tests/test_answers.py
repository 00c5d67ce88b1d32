"""No answer is trusted twice: what a node that is behind, loading or wrong may say, and what a user then sees.

The nodes are librdkafka's mock cluster, which answers as it is told to; only the last test needs Kafka.
"""

import argparse
import contextlib
import dataclasses
import os
import re
import subprocess
import time
from collections.abc import Iterator

import psutil
import pytest
from confluent_kafka import Consumer, KafkaError, TopicPartition
from harness.broker import Broker
from harness.mock_cluster import (
    COORDINATOR_LOAD_IN_PROGRESS,
    COORDINATOR_NOT_AVAILABLE,
    FETCH,
    FIND_COORDINATOR,
    GROUP_HEARTBEAT,
    GROUP_ID_NOT_FOUND,
    HEARTBEAT,
    INCONSISTENT_GROUP_PROTOCOL,
    JOIN_GROUP,
    KAFKA_STORAGE_ERROR,
    LIST_OFFSETS,
    NOT_COORDINATOR,
    NOT_LEADER,
    OFFSET_COMMIT,
    OFFSET_FETCH,
    OFFSET_NOT_AVAILABLE,
    REBALANCE_IN_PROGRESS,
    SYNC_GROUP,
    TOPIC_AUTHORIZATION_FAILED,
    UNKNOWN_LEADER_EPOCH,
    UNKNOWN_TOPIC_OR_PARTITION,
    WITHOUT_END,
    MockCluster,
)
from harness.process import Run, Start, offsets
from harness.settings import COOPERATIVE, NEW_PROTOCOL, Keys, settings

import consumer
from consumer import GroupConsumer

TOPIC = "tron.answers"
PARTITIONS = range(3)
EACH = 10  # messages that are written to a partition at once

# Seconds. Two looks must be further apart than it takes a loaded machine to fetch what is there.
CONSTANTS = {"LOOK_SECONDS": 2.0, "QUIET_SECONDS": 1.0, "GROUP_SECONDS": 2.0, "LEADER_SECONDS": 3.0}

START = "at the start"  # before the script is started
JOIN = "at the assignment"  # once it has asked to join the group: what it asks itself has been answered
RUN = "in mid-run"  # once it has printed what was there; as much again comes while it is answered so

STANDS_STILL = r"^warning: partitions? [\d, ]+ stands? still with \d+ messages? to read: starting a new client"
UNASSIGNED = "^warning: no partitions assigned yet"
NEVER = "were deleted|there is no topic|Traceback|^error: "
KIP_848: Keys = {**NEW_PROTOCOL, "heartbeat.interval.ms": None}


@dataclasses.dataclass(frozen=True)
class Row:
    """An answer, given `times` over, and what the user sees of it.

    `said` is a regular expression for standard error, which must come while the answers last; without one nothing may
    be said of a partition that stands still. Then the answers end, and all that was and will be written is printed.
    """

    api: int
    codes: tuple[int, ...]
    when: str
    said: str = ""
    times: int = 1
    keys: Keys = dataclasses.field(default_factory=dict)
    arguments: tuple[str, ...] = ()


PASSING = {
    "its own question for offsets: the coordinator loads": Row(OFFSET_FETCH, (COORDINATOR_LOAD_IN_PROGRESS,), START),
    "its own question for offsets: not the coordinator": Row(OFFSET_FETCH, (NOT_COORDINATOR,), START),
    "its own question for offsets: there is no such group": Row(OFFSET_FETCH, (GROUP_ID_NOT_FOUND,), START),
    "the client's for offsets: not the coordinator": Row(OFFSET_FETCH, (NOT_COORDINATOR,), JOIN, STANDS_STILL),
    "the client's for offsets: there is no such group": Row(OFFSET_FETCH, (GROUP_ID_NOT_FOUND,), JOIN, STANDS_STILL),
    "messages: not the leader": Row(FETCH, (NOT_LEADER,), RUN, STANDS_STILL, WITHOUT_END),
    "messages: not the leader, KIP-848": Row(FETCH, (NOT_LEADER,), RUN, STANDS_STILL, WITHOUT_END, KIP_848),
    "messages: no disk": Row(FETCH, (KAFKA_STORAGE_ERROR,), RUN, STANDS_STILL, WITHOUT_END),
    "messages: an epoch that it does not know": Row(FETCH, (UNKNOWN_LEADER_EPOCH,), RUN, STANDS_STILL, WITHOUT_END),
    "messages: no such topic": Row(FETCH, (UNKNOWN_TOPIC_OR_PARTITION,), RUN, STANDS_STILL, WITHOUT_END),
    "messages: not the leader, once": Row(FETCH, (NOT_LEADER,), RUN),
    "ends, for --from: no such topic": Row(
        LIST_OFFSETS, (UNKNOWN_TOPIC_OR_PARTITION,), START, times=2, arguments=("--from", "beginning")
    ),
    "beginnings, for the client: no such topic": Row(LIST_OFFSETS, (UNKNOWN_TOPIC_OR_PARTITION,), JOIN, times=2),
    "beginnings, for the client: not the leader": Row(LIST_OFFSETS, (NOT_LEADER,), JOIN, times=4),
    "beginnings, for the client: no disk": Row(LIST_OFFSETS, (KAFKA_STORAGE_ERROR,), JOIN, times=4),
    "beginnings, for the client: not yet": Row(LIST_OFFSETS, (OFFSET_NOT_AVAILABLE,), JOIN, times=4),
    "ends, for a look: no such topic": Row(LIST_OFFSETS, (UNKNOWN_TOPIC_OR_PARTITION,), RUN, times=2),
    "ends, for a look: not the leader": Row(LIST_OFFSETS, (NOT_LEADER,), RUN, times=2),
    "a commit: the coordinator loads": Row(OFFSET_COMMIT, (COORDINATOR_LOAD_IN_PROGRESS,), RUN),
    "joining: the coordinator loads": Row(JOIN_GROUP, (COORDINATOR_LOAD_IN_PROGRESS,), START, UNASSIGNED, WITHOUT_END),
    "joining: not the coordinator": Row(JOIN_GROUP, (NOT_COORDINATOR,), START, UNASSIGNED, WITHOUT_END),
    "joining: a rebalance": Row(JOIN_GROUP, (REBALANCE_IN_PROGRESS,), START, UNASSIGNED, WITHOUT_END),
    "syncing: the coordinator loads": Row(SYNC_GROUP, (COORDINATOR_LOAD_IN_PROGRESS,), START, UNASSIGNED, WITHOUT_END),
    "syncing: not the coordinator": Row(SYNC_GROUP, (NOT_COORDINATOR,), START, UNASSIGNED, WITHOUT_END),
    "syncing: a rebalance": Row(SYNC_GROUP, (REBALANCE_IN_PROGRESS,), START, UNASSIGNED, WITHOUT_END),
    "joining: not the coordinator, KIP-848": Row(
        GROUP_HEARTBEAT, (NOT_COORDINATOR,), START, UNASSIGNED, WITHOUT_END, KIP_848
    ),
    "a heartbeat: a rebalance": Row(HEARTBEAT, (REBALANCE_IN_PROGRESS,), RUN),
    "a heartbeat: not the coordinator": Row(HEARTBEAT, (NOT_COORDINATOR,), RUN),
}
# (api, codes, the line that ends it, what must not be in it)
ENDING = {
    "no right to read": (FETCH, TOPIC_AUTHORIZATION_FAILED, f"may not read topic {TOPIC}", "network|bootstrap"),
    "no coordinator": (FIND_COORDINATOR, COORDINATOR_NOT_AVAILABLE, "coordinator", "network|bootstrap"),
    "members that divide in another way": (
        *(JOIN_GROUP, INCONSISTENT_GROUP_PROTOCOL),
        *("partition.assignment.strategy, group.protocol and group.id", "network|bootstrap"),
    ),
}


@pytest.fixture
def mock() -> Iterator[MockCluster]:
    """Three nodes with a topic of three partitions, one on each, in which messages are."""
    with MockCluster() as running:
        running.create_topic(TOPIC, len(PARTITIONS))
        write(running)
        yield running


def write(mock: MockCluster, each: int = EACH) -> None:
    """Write so many messages to each partition."""
    mock.produce(TOPIC, [b"x"] * each * len(PARTITIONS), PARTITIONS)


def keys_for(mock: MockCluster, keys: Keys | None = None) -> dict[str, str]:
    """Return the keys of an INI without a login; sessions are short, so that a dropped client is soon forgotten."""
    merged: dict[str, str | None] = {
        "bootstrap.servers": mock.address,
        "security.protocol": "plaintext",
        "group.id": "answers",
        "auto.offset.reset": "earliest",
        "session.timeout.ms": "3000",
        "heartbeat.interval.ms": "500",
        **(keys or {}),
    }
    return {key: value for key, value in merged.items() if value is not None}


def wait_for_offsets(run: Run, each: int) -> None:
    """Wait until so many messages of each partition have been printed, whether or not some were twice."""
    wanted = {(partition, offset) for partition in PARTITIONS for offset in range(each)}
    run.wait_for(lambda run: offsets([run]).keys() >= wanted)
    assert offsets([run]).keys() == wanted


def wait_until_committed(mock: MockCluster, each: int) -> None:
    """Wait until the group has committed so many messages of each partition."""
    client = Consumer({"bootstrap.servers": mock.address, "group.id": "answers", "enable.metrics.push": False})
    wanted, deadline = [each] * len(PARTITIONS), time.monotonic() + 30
    asked = [TopicPartition(TOPIC, partition) for partition in PARTITIONS]
    while (now := [one.offset for one in client.committed(asked, timeout=10)]) != wanted:
        assert time.monotonic() < deadline, f"{now} instead of {wanted}"
        time.sleep(0.1)
    client.close()


@pytest.mark.parametrize("row", PASSING.values(), ids=PASSING)
def test_what_passes_is_overcome(mock: MockCluster, start: Start, row: Row) -> None:
    if row.when == START:
        mock.push(row.api, *row.codes, times=row.times)
    written, before = EACH, 0
    run = start(keys_for(mock, row.keys), TOPIC, *row.arguments, constants=CONSTANTS)
    if row.when != START:
        if row.when == JOIN:
            mock.wait_for_request(JOIN_GROUP)
        else:
            wait_for_offsets(run, EACH)
        before = mock.count_requests(row.api)
        mock.push(row.api, *row.codes, times=row.times)
    if row.when == RUN:
        write(mock)
        written += EACH
    if row.said:
        run.wait_for(lambda run: re.search(row.said, run.stderr, re.M))
    answers = 1 if row.times == WITHOUT_END else row.times * len(row.codes)
    run.wait_for(lambda _: mock.count_requests(row.api) >= before + answers)  # or nothing was answered so
    mock.clear(row.api)
    wait_for_offsets(run, written)
    write(mock, 1)
    wait_for_offsets(run, written + 1)
    assert run.stop() == 0
    assert not re.search(NEVER if row.said else f"stands? still|{NEVER}", run.stderr, re.M), run.stderr


@pytest.mark.parametrize(("api", "code", "said", "unsaid"), ENDING.values(), ids=ENDING)
def test_what_only_a_person_can_mend_ends_it(
    mock: MockCluster, start: Start, api: int, code: int, said: str, unsaid: str
) -> None:
    mock.push(api, code, times=WITHOUT_END)
    run = start(keys_for(mock), TOPIC, constants=CONSTANTS)
    assert run.end(30) == 1
    (line,) = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
    assert said in line
    assert not re.search(unsaid, run.stderr), run.stderr


def test_a_topic_that_no_metadata_have(mock: MockCluster, start: Start) -> None:
    mock.set_topic_error(TOPIC, UNKNOWN_TOPIC_OR_PARTITION)
    run = start(keys_for(mock), TOPIC, constants=CONSTANTS)
    assert run.end(30) == 1
    assert f"error: there is no topic {TOPIC}: check --topic" in run.stderr


def test_an_address_that_is_advertised_and_that_nobody_reaches(mock: MockCluster, start: Start) -> None:
    """The line names it, and not the address in bootstrap.servers, which does answer."""
    for node in mock.nodes:
        mock.advertise(node, "127.0.0.1", 1)
    run = start(keys_for(mock), TOPIC, constants=CONSTANTS)
    assert run.end(30) == 1
    (line,) = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
    assert "127.0.0.1:1: Connect" in line
    assert "an address that the broker advertises cannot be reached" in line
    assert not any(address in line for address in mock.address.split(","))


def test_a_partition_that_stands_still_is_named_as_often_as_it_is_seen(mock: MockCluster, start: Start) -> None:
    run = start(keys_for(mock), TOPIC, constants=CONSTANTS)
    wait_for_offsets(run, EACH)
    mock.push(FETCH, NOT_LEADER, times=WITHOUT_END)
    mock.produce(TOPIC, [b"x"] * EACH, [1])
    words = "warning: partition 1 stands still with 10 messages to read: starting a new client"
    run.wait_for(lambda run: run.stderr.count(words) == 2)
    mock.clear(FETCH)
    run.wait_for(lambda run: offsets([run]).keys() >= {(1, offset) for offset in range(2 * EACH)})
    assert run.stop() == 0
    assert not re.search(r"partitions? [02]", run.stderr), run.stderr


def test_partitions_that_stand_still_together_are_given_one_new_client(mock: MockCluster, start: Start) -> None:
    """Each client that is dropped counts as a member of the group until its session has passed."""
    run = start(keys_for(mock), TOPIC, constants=CONSTANTS)
    wait_for_offsets(run, EACH)
    mock.push(FETCH, NOT_LEADER, times=WITHOUT_END)
    write(mock)
    run.wait_for(lambda run: re.search(STANDS_STILL, run.stderr, re.M))
    mock.clear(FETCH)
    wait_for_offsets(run, 2 * EACH)
    assert run.stop() == 0
    assert run.stderr.count("starting a new client") == 1, run.stderr


def test_a_slow_reader_is_no_partition_that_stands_still(mock: MockCluster, start: Start) -> None:
    """What waits behind it does not move for longer than two looks are apart."""
    topic = mock.create_topic("tron.wide", 30)
    mock.produce(topic, [bytes(1000)] * 3000, range(30))
    run = start(keys_for(mock), topic, constants={**CONSTANTS, "LOOK_SECONDS": 0.5}, stdout=subprocess.PIPE)
    assert run.process.stdout is not None
    count, deadline = 0, time.monotonic() + 12
    while time.monotonic() < deadline:
        count += os.read(run.process.stdout.fileno(), 100_000).count(b"\n")
        time.sleep(0.3)
    assert 0 < count < 3000
    assert not re.search("stands? still", run.stderr), run.stderr


def test_ends_that_nobody_tells_are_an_outage(mock: MockCluster, start: Start) -> None:
    """Whether a partition stands still cannot be known then; a new client is made all the same."""
    run = start(keys_for(mock), TOPIC, constants={**CONSTANTS, "OUTAGE_SECONDS": 5.0})
    mock.wait_for_request(JOIN_GROUP)
    mock.push(LIST_OFFSETS, NOT_LEADER, times=WITHOUT_END)
    run.wait_for(lambda run: re.search("^warning: .*starting a new client", run.stderr, re.M))
    mock.clear(LIST_OFFSETS)
    wait_for_offsets(run, EACH)
    assert run.stop() == 0
    assert not re.search(f"stands? still|{NEVER}", run.stderr, re.M), run.stderr


def test_leaders_and_a_coordinator_that_move_are_followed(mock: MockCluster, start: Start) -> None:
    run = start(keys_for(mock), TOPIC, constants={**CONSTANTS, "LOOK_SECONDS": 20.0})
    wait_for_offsets(run, EACH)
    for node in mock.nodes:
        mock.set_coordinator("answers", node)
        for partition in PARTITIONS:
            mock.set_leader(TOPIC, partition, node)
        write(mock)
        wait_for_offsets(run, (node + 1) * EACH)
    assert run.stop() == 0
    assert not re.search(f"stands? still|{NEVER}", run.stderr, re.M), run.stderr


def test_answers_that_are_late_are_waited_for(mock: MockCluster, start: Start) -> None:
    """Longer than the script waits for the first try of what it asks itself."""
    mock.set_delay(0.5, *mock.nodes)
    run = start(keys_for(mock), TOPIC, constants={**CONSTANTS, "LOOK_SECONDS": 20.0})
    wait_for_offsets(run, EACH)
    assert run.stop() == 0
    assert not re.search(f"stands? still|lost connection|{NEVER}", run.stderr, re.M), run.stderr


def test_after_an_outage_it_is_said_that_messages_come_again(mock: MockCluster, start: Start) -> None:
    run = start(keys_for(mock), TOPIC, constants=CONSTANTS)
    wait_for_offsets(run, EACH)
    mock.set_down(*mock.nodes)
    run.wait_for_words("warning: lost connection")
    assert "messages come again" not in run.stderr
    mock.set_up(*mock.nodes)
    write(mock)
    wait_for_offsets(run, 2 * EACH)
    run.wait_for_words("messages come again")
    assert run.stop() == 0
    assert run.stderr.count("messages come again") == 1


def test_after_an_outage_it_is_said_again_that_it_has_no_partitions(mock: MockCluster, start: Start) -> None:
    mock.push(JOIN_GROUP, REBALANCE_IN_PROGRESS, times=WITHOUT_END)
    run = start(keys_for(mock), TOPIC, constants=CONSTANTS)
    run.wait_for(lambda run: re.search(UNASSIGNED, run.stderr, re.M))
    mock.set_down(*mock.nodes)
    run.wait_for_words("warning: lost connection")
    before = len(re.findall(UNASSIGNED, run.stderr, re.M))
    mock.set_up(*mock.nodes)
    run.wait_for(lambda run: len(re.findall(UNASSIGNED, run.stderr, re.M)) > before)
    mock.clear(JOIN_GROUP)
    wait_for_offsets(run, EACH)
    assert run.stop() == 0


@pytest.mark.parametrize("session", ["3000", "12000"], ids=["shorter", "longer"])
def test_an_outage_that_lasts_is_met_with_a_new_client(mock: MockCluster, start: Start, session: str) -> None:
    """Whether or not the session, after which no partitions are left to look at, is shorter than OUTAGE_SECONDS."""
    run = start(keys_for(mock, {"session.timeout.ms": session}), TOPIC, constants={**CONSTANTS, "OUTAGE_SECONDS": 6.0})
    wait_for_offsets(run, EACH)
    wait_until_committed(mock, EACH)
    mock.set_down(*mock.nodes)
    run.wait_for(lambda run: re.search("^warning: no answer for .*starting a new client", run.stderr, re.M), 30)
    assert "stands still" not in run.stderr
    mock.set_up(*mock.nodes)
    write(mock)
    wait_for_offsets(run, 2 * EACH)
    assert run.stop() == 0


def test_a_bad_answer_after_a_long_time_without_partitions_is_no_outage(mock: MockCluster, start: Start) -> None:
    """The second copy has asked nobody meanwhile: the first one has the topic's only partition."""
    topic = mock.create_topic("tron.one")
    constants = {**CONSTANTS, "OUTAGE_SECONDS": 6.0}
    first = start(keys_for(mock), topic, constants=constants)
    first.wait_for_words("assigned 1 partition")
    second = start(keys_for(mock), topic, constants=constants)
    second.wait_for_words("assigned 0 partitions")
    time.sleep(8)
    mock.push(LIST_OFFSETS, NOT_LEADER, times=3)
    assert first.stop() == 0
    second.wait_for_words("assigned 1 partition")
    mock.produce(topic, [b"x"])
    second.wait_for_lines(1)
    assert second.stop() == 0
    assert "starting a new client" not in second.stderr


@pytest.mark.parametrize("code", [COORDINATOR_NOT_AVAILABLE, NOT_COORDINATOR, COORDINATOR_LOAD_IN_PROGRESS])
def test_stopped_while_a_commit_is_refused_it_prints_nothing_again_without_a_word(
    mock: MockCluster, start: Start, code: int
) -> None:
    keys = keys_for(mock)
    run = start(keys, TOPIC, stdout=subprocess.PIPE)
    assert run.process.stdout is not None
    for _ in range(EACH * len(PARTITIONS)):
        run.process.stdout.readline()
    wait_until_committed(mock, EACH)
    mock.push(OFFSET_COMMIT, code)
    before = mock.count_requests(OFFSET_COMMIT)
    write(mock)
    for _ in range(EACH * len(PARTITIONS)):
        run.process.stdout.readline()
    run.wait_for(lambda _: mock.count_requests(OFFSET_COMMIT) > before)
    status = run.stop()
    rest = start(keys, TOPIC, "--exit-at-end")
    assert rest.end() == 0
    assert rest.lines == [] or (status == 1 and "printed again" in run.stderr), run.stderr


@pytest.mark.parametrize(
    ("api", "code", "keys"),
    [
        (JOIN_GROUP, REBALANCE_IN_PROGRESS, COOPERATIVE),
        (GROUP_HEARTBEAT, NOT_COORDINATOR, KIP_848),
    ],
    ids=["cooperative", "KIP-848"],
)
def test_a_member_whose_coordinator_is_away_is_no_spare(
    mock: MockCluster, start: Start, api: int, code: int, keys: Keys
) -> None:
    """Or --exit-at-end would end with 0, and nothing printed."""
    mock.set_coordinator("answers", 3)
    mock.push(api, code, times=WITHOUT_END)
    merged = keys_for(mock, {**keys, "reconnect.backoff.max.ms": "500"})  # [10000] between two lost connections
    run = start(merged, TOPIC, "--exit-at-end", constants={**CONSTANTS, "SESSION_SECONDS": 5, "SPARE_SECONDS": 0})
    mock.wait_for_request(api)
    mock.set_down(3)
    time.sleep(9)
    mock.set_up(3)
    mock.clear(api)
    assert run.end(30) == 0
    assert len(run.lines) == EACH * len(PARTITIONS)
    assert "was left to print" not in run.stderr


def test_a_coordinator_that_is_silent_is_not_taken_for_a_blocked_reader(mock: MockCluster, start: Start) -> None:
    """The reader goes in the middle of a write, which fails; what hangs after that is the commit."""
    topic = mock.create_topic("tron.large")
    mock.produce(topic, [bytes(1000)] * 3000)  # ten times what a pipe holds
    run = start(keys_for(mock), topic, stdout=subprocess.PIPE)
    assert run.process.stdout is not None
    for _ in range(1000):
        run.process.stdout.readline()
    mock.set_delay(60, *mock.nodes)
    run.process.stdout.close()
    assert run.end(30) == 1
    (line,) = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
    assert "the broker does not answer" in line


# ---- what one node says, while others answer ------------------------------------------------------------------------


@pytest.fixture
def member(mock: MockCluster, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> GroupConsumer:
    """A consumer in this process that has all partitions and has read them."""
    for name in ("DOWN_SECONDS", "REFUSED_SECONDS"):
        monkeypatch.setattr(consumer, name, 0.1)
    monkeypatch.setattr("sys.stdout", open(os.devnull, "w"))
    arguments = argparse.Namespace(topic=TOPIC, config="my.ini", quiet=True, exit_at_end=False)
    config = {**consumer.DEFAULTS, **keys_for(mock)}
    member = GroupConsumer(config, arguments, consumer.Output(consumer.Watch()))
    member.start(None)
    count = 0
    deadline = time.monotonic() + 30
    while count < EACH * len(PARTITIONS):
        assert time.monotonic() < deadline
        count += len(member.poll(100))
    return member


def test_an_address_that_does_not_answer_is_not_said_while_the_leaders_do(
    mock: MockCluster, member: GroupConsumer, capfd: pytest.CaptureFixture[str]
) -> None:
    """As of `localhost`, which is two."""
    gone = KafkaError(KafkaError._TRANSPORT, "localhost:9092: Connect to ipv6#[::1]:9092 failed: Connection refused")
    for down in (mock.nodes[:0], mock.nodes):
        mock.set_down(*down)
        member.errors.error_cb(gone)
        time.sleep(0.2)
        member.check()
        said = capfd.readouterr().err
        assert ("warning: lost connection" in said) == bool(down), said


def test_a_login_that_one_node_refuses_is_final_only_where_no_other_answers(
    mock: MockCluster, member: GroupConsumer
) -> None:
    for down in (mock.nodes[:0], mock.nodes):
        mock.set_down(*down)
        for _ in range(2):
            member.errors.error_cb(KafkaError(KafkaError._AUTHENTICATION, "SASL authentication error: no"))
            time.sleep(0.2)
        assert member.errors.refused_for_good()
        with pytest.raises(consumer.Failure, match="login failed") if down else contextlib.nullcontext():
            member.check()


def test_why_it_ends_is_said_before_a_goodbye_that_hangs(mock: MockCluster, start: Start) -> None:
    """What was printed waits for the coordinator to be committed, and the run has five seconds to end."""
    mock.set_coordinator("answers", 3)
    slow: Keys = {"auto.commit.interval.ms": "60000", "session.timeout.ms": "30000"}
    run = start(keys_for(mock, slow), TOPIC)
    run.wait_for_lines(EACH * len(PARTITIONS))
    mock.set_down(3)
    mock.push(FETCH, TOPIC_AUTHORIZATION_FAILED, times=WITHOUT_END)
    assert run.end(30) == 1
    why, goodbye = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
    assert why.startswith(f"error: this user may not read topic {TOPIC}")
    assert "what was printed last may be printed again" in goodbye


def test_memory_does_not_grow_behind_a_reader_that_sleeps(mock: MockCluster, start: Start) -> None:
    """Statistics did grow: each second a text that nobody takes."""
    topic = mock.create_topic("tron.wide", 30)
    mock.produce(topic, [bytes(1000)] * 3000, range(30))  # ten times what a pipe holds
    run = start(keys_for(mock), topic, stdout=subprocess.PIPE)
    run.wait_for_words("assigned 30 partitions")
    time.sleep(5)
    before = resident_memory(run)
    time.sleep(20)
    assert run.process.poll() is None
    assert resident_memory(run) - before < 300_000


def resident_memory(run: Run) -> int:
    """Return a process's resident memory in bytes."""
    size: int = psutil.Process(run.process.pid).memory_info().rss
    return size


def test_where_a_group_begins_is_committed_without_a_leader_epoch(broker: Broker, topic3: str, start: Start) -> None:
    """Beside an old offset a node may tell the epoch of today's leader, and then nothing more would be committed."""
    broker.produce(topic3, [b"x"] * 30)
    keys = settings(broker)
    assert start(keys, topic3, "--from", "beginning", "--max-messages", "1").end() == 0
    consumer = Consumer({"bootstrap.servers": broker.address("PLAINTEXT"), "group.id": keys["group.id"]})
    try:
        committed = consumer.committed([TopicPartition(topic3, partition) for partition in PARTITIONS], timeout=10)
    finally:
        consumer.close()
    assert sorted(one.offset for one in committed) == [0, 0, 1]
    assert [one.leader_epoch for one in committed if one.offset == 0] == [None, None]
