"""Three brokers, of which some go and come back while messages flow: nothing is lost, and no copy ends."""

import contextlib
import itertools
import re
import signal
import threading
import time
from collections.abc import Iterator, Sequence

import pytest
from confluent_kafka import KafkaError, Producer
from harness.cluster import Cluster
from harness.process import Run, Start, offsets
from harness.settings import NEW_PROTOCOL, settings
from harness.words import WAITS

pytestmark = pytest.mark.xdist_group("cluster")

OUTAGE = (
    r"warning: (lost connection, or an address that the broker advertises cannot be reached \(.+\); trying again until "
    r"it works|what was printed may be printed again: offsets were not committed \(.+\)|no partitions assigned yet: .*"
    r"|a partition's leader does not answer: .*|partition 0 stands still .*|the coordinator of group .*)$"
)
# A copy that ends, and what an outage is not.
WRONG = "^error:|Traceback|PLAINTEXT broker listener|no TLS|invalid servername"

_number = itertools.count(1)


@pytest.fixture
def topic(cluster: Cluster) -> str:
    """A new topic with three partitions, each of them on all three nodes, and each led by another."""
    return cluster.create_topic(f"tron.cluster-{next(_number)}", partitions=3)


@contextlib.contextmanager
def flow(cluster: Cluster, topic: str) -> Iterator[None]:
    """Send 100 messages a second for as long as the block lasts; return once the cluster has acknowledged them all."""
    properties = {"bootstrap.servers": cluster.address("PLAINTEXT"), "enable.idempotence": True, "log_level": 0}
    producer = Producer({**properties, "acks": "all"})
    failures: list[KafkaError] = []
    stop = threading.Event()

    def send() -> None:
        for number in itertools.count():
            if stop.wait(0.01):  # each costs the nodes 2 ms of CPU time
                break
            producer.produce(
                topic,
                b"%d" % number,
                partition=number % 3,
                on_delivery=lambda error, _: failures.append(error) if error else None,
            )
            producer.poll(0)

    sending = threading.Thread(target=send)
    sending.start()
    try:
        yield
    finally:
        stop.set()
        sending.join()
    assert producer.flush(60) == 0
    assert not failures


def wait_until_printed(runs: Sequence[Run], wanted: set[tuple[int, int]]) -> None:
    """Wait until the runs have printed each (partition, offset) of `wanted`; only those that were killed may end."""
    assert wanted
    # A killed member's partitions are given away after session.timeout.ms, 6 s, and librdkafka rests for up to 10 s
    # between two attempts to connect.
    deadline = time.monotonic() + 30
    while missing := wanted - set(offsets(runs)):
        said = "\n".join(run.stderr for run in runs)
        assert all(run.process.poll() in (None, -signal.SIGKILL) for run in runs), said
        assert time.monotonic() < deadline, f"{len(missing)} of {len(wanted)} are missing, as {min(missing)}\n{said}"
        time.sleep(0.2)


def check(runs: Sequence[Run], wanted: set[tuple[int, int]], outages: int = 1) -> None:
    """Check that the runs print all of `wanted`, go on until they are stopped or killed, and say what they should."""
    wait_until_printed(runs, wanted)
    for run in runs:
        assert run.process.poll() == -signal.SIGKILL or run.stop() == 0, run.stderr
        said = run.stderr.splitlines()
        warnings = [line for line in said if line.startswith("warning:")]
        assert len(warnings) <= 3 * outages, said  # a lost connection, a commit, the group: each once a minute
        assert all(re.match(OUTAGE, line) for line in warnings), said
        assert not [line for line in said if re.search(WRONG, line)], said


def test_the_leader_and_then_the_coordinator_are_killed(cluster: Cluster, topic: str, start: Start) -> None:
    runs = [start(settings(cluster, protocol), topic) for protocol in ({}, NEW_PROTOCOL)]
    with flow(cluster, topic):
        for what in (topic, "__consumer_offsets"):
            for run in runs:
                run.wait_for_lines(1)
            with cluster.without(cluster.leader(what)):
                cluster.wait_for_nodes(2)
                for run in runs:
                    wait_until_printed([run], cluster.messages(topic, 3))
    for run in runs:
        check([run], cluster.messages(topic, 3), outages=2)


def test_all_three_are_killed(cluster: Cluster, topic: str, start: Start) -> None:
    run = start(settings(cluster), topic)
    with flow(cluster, topic):
        run.wait_for_lines(1)
        with cluster.without(*cluster.nodes):
            run.wait_for_words("warning:")
    check([run], cluster.messages(topic, 3))


def test_a_partition_without_a_leader_holds_up_no_other(cluster: Cluster, start: Start) -> None:
    topic = cluster.create_topic("tron.not-replicated", 3, {"min.insync.replicas": "1"}, replicas=1)
    run = start(settings(cluster), topic, constants={"LOOK_SECONDS": 3, "OUTAGE_SECONDS": 5})
    with flow(cluster, topic):
        run.wait_for_lines(1)
        with cluster.without(cluster.leader(topic, 0)):
            cluster.wait_for_nodes(2)
            others = {(partition, offset) for partition in (1, 2) for offset in range(cluster.end(topic, partition))}
            wait_until_printed([run], others)
            time.sleep(8)  # longer than OUTAGE_SECONDS, but the others go on
    assert "no answer for" not in run.stderr
    check([run], cluster.messages(topic, 3))


def test_a_start_while_one_is_down(cluster: Cluster, topic: str, start: Start) -> None:
    with flow(cluster, topic), cluster.without(cluster.nodes[0]):  # the first in bootstrap.servers
        cluster.wait_for_nodes(2)
        run = start(settings(cluster), topic)
        run.wait_for_lines(1)
    check([run], cluster.messages(topic, 3))


def test_from_while_one_is_down(cluster: Cluster, topic: str, start: Start) -> None:
    """At once, when requests fail because the dead node is still the leader; and when that has passed."""
    dead = cluster.leader(topic)
    others = [node for node in cluster.nodes if node is not dead]
    runs = []
    with flow(cluster, topic), cluster.without(dead):
        for nodes in ([*others, dead], [dead, *others]):
            servers = ",".join(node.address() for node in nodes)
            keys = settings(cluster, {"bootstrap.servers": servers, "auto.offset.reset": "latest"})
            runs.append(start(keys, topic, "--from", "beginning"))
            runs[-1].wait_for_words("starts at ")
            cluster.wait_for_nodes(2)
    for run in runs:
        check([run], cluster.messages(topic, 3))


def test_a_new_group_begins_at_the_end_while_one_is_down(cluster: Cluster, topic: str, start: Start) -> None:
    for partition in range(3):
        cluster.produce(topic, [b"x"] * 10, partition)
    before = cluster.messages(topic, 3)
    with flow(cluster, topic), cluster.without(cluster.leader(topic)):
        run = start(settings(cluster, {"auto.offset.reset": "latest"}), topic)
        run.wait_for_words(WAITS)
        cluster.wait_for_nodes(2)
        by_then = cluster.messages(topic, 3)
    wanted = cluster.messages(topic, 3)
    wait_until_printed([run], wanted - by_then)
    printed = set(offsets([run]))
    first = {number: min(offset for partition, offset in printed if partition == number) for number in range(3)}
    skipped = {(partition, offset) for partition, offset in wanted if offset < first[partition]}
    assert before <= skipped <= by_then
    check([run], wanted - skipped)
