"""What tests share: a broker in each process of pytest-xdist, and the quiet in which a test measures time."""

import fcntl
import itertools
import os
import signal
import tempfile
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from harness.broker import PASSWORD, QUICK_START, Broker, NoKafka, kafka_jars, keep_loaded_classes, temporary_broker
from harness.cluster import Cluster, temporary_cluster
from harness.environment import missing, undo_nohup
from harness.process import Run, Start
from harness.settings import write_config
from harness.terminal import Terminal

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_number = itertools.count(1)


def pytest_configure(config: pytest.Config) -> None:
    """Give all processes of this run a directory for their locks, and let SIGTERM, too, stop what they started."""
    for number in STOP_SIGNALS:
        signal.signal(number, stop)
    undo_nohup()
    if "PYTEST_XDIST_WORKER" not in os.environ:  # else the one that has started this one did it
        locks = tempfile.TemporaryDirectory(prefix="pytest-locks-")
        config.add_cleanup(locks.cleanup)
        os.environ["PYTEST_LOCKS"] = locks.name


def stop(_: int, __: object) -> None:
    """End the run as Ctrl-C does; a second signal, which pytest-xdist sends, must not hinder the clean-up."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the quiet tests last, so that the others wait for them but once."""
    items.sort(key=is_quiet)


def is_quiet(item: pytest.Item) -> bool:
    """Tell whether a test must run alone."""
    return item.get_closest_marker("quiet") is not None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Run a test marked `quiet` while no other runs, in whichever process; its fixtures, too."""
    locks = Path(os.environ["PYTEST_LOCKS"])
    with (locks / "room").open("w") as room:
        # Who waits to be alone holds the gate, or others would go on entering the room.
        with (locks / "gate").open("w") as gate:
            fcntl.flock(gate, fcntl.LOCK_EX)
            fcntl.flock(room, fcntl.LOCK_EX if is_quiet(item) else fcntl.LOCK_SH)
        return (yield)


@pytest.fixture(scope="session")
def kafka() -> None:
    """Skip what needs Kafka where it cannot be downloaded; in CI that is a failure."""
    with (Path(os.environ["PYTEST_LOCKS"]) / "download").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one process downloads for all
        try:
            kafka_jars()
            keep_loaded_classes()
        except NoKafka as error:
            missing(str(error))


@pytest.fixture(scope="session")
def broker(kafka: None) -> Iterator[Broker]:
    """The broker that nobody stops, and whose controller does not give it up where the machine stands still a while."""
    with temporary_broker(QUICK_START, **{"broker.session.timeout.ms": "60000"}) as running:
        yield running


@pytest.fixture(scope="session")
def cluster(kafka: None) -> Iterator[Cluster]:
    """Three nodes, for tests in the xdist_group "cluster", so that they are started once."""
    with temporary_cluster() as running:
        yield running


@pytest.fixture(scope="session")
def breakable_broker(kafka: None) -> Iterator[Broker]:
    """A second broker, which after a kill does not wait for long until its earlier self counts as dead."""
    sessions = {"broker.session.timeout.ms": "3000", "broker.heartbeat.interval.ms": "500"}
    with temporary_broker(QUICK_START, **sessions) as running:
        yield running


@pytest.fixture
def own_broker(breakable_broker: Broker) -> Broker:
    """A broker which the test may stop, kill and start again, and whose password it may change."""
    if breakable_broker.process is None:
        breakable_broker.start()
    breakable_broker.set_password(PASSWORD)
    return breakable_broker


@pytest.fixture
def own_topic(own_broker: Broker) -> str:
    """A new topic with one partition on the broker that the test may stop."""
    return own_broker.create_topic(f"tron.own-{next(_number)}")


@pytest.fixture
def topic(broker: Broker) -> str:
    """A new topic with one partition."""
    return broker.create_topic(f"tron.test-{next(_number)}")


@pytest.fixture
def topic3(broker: Broker) -> str:
    """A new topic with three partitions."""
    return broker.create_topic(f"tron.test-{next(_number)}", partitions=3)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """A function that starts consumer.py on settings, a topic, and further arguments; whatever still runs is killed."""
    runs: list[Run] = []

    def start(keys: Mapping[str, str], topic: str, *arguments: str, **options: Any) -> Run:
        config = write_config(tmp_path / f"config-{next(_number)}.ini", keys)
        runs.append(Run(tmp_path, ["--config", str(config), "--topic", topic, *arguments], **options))
        return runs[-1]

    yield start
    for run in runs:
        if run.process.poll() is None:
            run.kill()


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    """A terminal of 80 columns."""
    with Terminal() as opened:
        yield opened
