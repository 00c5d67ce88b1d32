"""Three Kafka nodes, of which one may die: topics are replicated to all, and two are enough to go on."""

import contextlib
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from confluent_kafka import KafkaException

from harness.broker import QUICK_START, START_SECONDS, Broker, Kafka, new_cluster_id
from harness.certificates import make_certificates


class Cluster(Kafka):
    """Three nodes in `directory`, each broker and controller; `with Cluster(directory) as cluster:` as for Broker.

    `nodes` are brokers that can be stopped, killed and started again one by one.
    """

    def __init__(self, directory: Path, **properties: str) -> None:
        """Choose their ports; nothing is started yet. `properties` are added to each node's server.properties."""
        super().__init__()
        self.certificates = directory / "certs"
        replicated = {
            "default.replication.factor": "3",
            "min.insync.replicas": "2",
            "offsets.topic.replication.factor": "3",
            # A dead node is noticed after so long, or after twice that where it led the controllers, too.
            "broker.session.timeout.ms": "3000",
            "broker.heartbeat.interval.ms": "500",
        }
        self.nodes = [
            Broker(directory / f"node-{number}", QUICK_START, **{"node.id": f"{number}", **replicated, **properties})
            for number in (1, 2, 3)
        ]
        voters = ",".join(f"{number}@127.0.0.1:{node.ports['CONTROLLER']}" for number, node in enumerate(self.nodes, 1))
        for node in self.nodes:
            node.certificates = self.certificates
            node.properties["controller.quorum.voters"] = voters

    def __enter__(self) -> "Cluster":
        """Start all nodes, and return once each knows of the others. Their certificate names their host."""
        make_certificates(self.certificates, host="127.0.0.1")
        cluster_id = new_cluster_id()
        for node in self.nodes:
            node.directory.mkdir()
            node.format(cluster_id)
        try:
            for node in self.nodes:
                node.launch()
            for node in self.nodes:
                node.wait_until_it_answers()
            self.wait_for_nodes(3)
            self.grant()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        """Stop all nodes."""
        self.stop()

    def address(self, listener: str = "SASL_SSL") -> str:
        """Return host:port of a listener, of each node."""
        return ",".join(node.address(listener) for node in self.nodes)

    def create_topic(
        self, name: str, partitions: int = 1, settings: Mapping[str, str] | None = None, replicas: int = -1
    ) -> str:
        """Create a topic as Kafka.create_topic does; return once each node knows it."""
        super().create_topic(name, partitions, settings, replicas)
        for node in self.nodes:
            deadline = time.monotonic() + START_SECONDS
            while name not in node.new_client().list_topics(timeout=10).topics:
                assert time.monotonic() < deadline, f"a node does not know {name}"
                time.sleep(0.1)
        return name

    def leader(self, topic: str, partition: int = 0) -> Broker:
        """Return the node that leads a partition."""
        number = self.admin.list_topics(topic, timeout=10).topics[topic].partitions[partition].leader
        assert number > 0, f"nobody leads partition {partition} of {topic}"
        return self.nodes[number - 1]

    def wait_for_nodes(self, count: int) -> None:
        """Wait until the cluster has so many nodes; all three only once every replica has caught up."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(KafkaException):  # asked was the node that has just been killed
                found = self.admin.list_topics(timeout=10)
                partitions = [one for topic in found.topics.values() for one in topic.partitions.values()]
                behind = any(len(one.isrs) < len(one.replicas) for one in partitions)
                if len(found.brokers) == count and (count < 3 or not behind):
                    return
            assert time.monotonic() < deadline, f"the cluster does not have {count} nodes"
            time.sleep(0.1)

    @contextlib.contextmanager
    def without(self, *nodes: Broker, how: int = signal.SIGKILL) -> Iterator[None]:
        """Stop nodes for as long as the block lasts; return once they are back, and hold all that the others do."""
        for node in nodes:
            node.stop(how)
        try:
            yield
        finally:
            for node in nodes:
                node.launch()
            for node in nodes:
                node.wait_until_it_answers()
            self.wait_for_nodes(3)

    def stop(self) -> None:
        """End all nodes, at once: the last one alone would wait for a quorum to say goodbye to."""
        for node in self.nodes:
            node.stop(signal.SIGKILL)


@contextlib.contextmanager
def temporary_cluster(**properties: str) -> Iterator[Cluster]:
    """Start a cluster in a temporary directory, which is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="kafka-") as directory, Cluster(Path(directory), **properties) as cluster:
        yield cluster
