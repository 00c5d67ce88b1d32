"""What tests share: a broker for all processes of pytest-xdist, and the quiet in which a test measures time."""

import contextlib
import fcntl
import itertools
import json
import os
import signal
import tempfile
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
from harness.broker import PASSWORD, QUICK_START, Broker, NoKafka, kafka_jars, keep_loaded_classes, temporary_broker
from harness.cluster import Cluster, temporary_cluster
from harness.environment import let_programs_hear, missing, numbers
from harness.process import Run, Start
from harness.settings import write_config
from harness.terminal import Terminal

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_number = numbers()


def pytest_configure(config: pytest.Config) -> None:
    """Give all processes of this run a directory for what they share, and let SIGTERM, too, stop what they started."""
    for number in STOP_SIGNALS:
        signal.signal(number, stop)
    let_programs_hear()
    if "PYTEST_XDIST_WORKER" not in os.environ:  # else the one that has started this one did it
        directory = tempfile.TemporaryDirectory(prefix="pytest-shared-")
        config.add_cleanup(directory.cleanup)
        config.add_cleanup(end_broker)  # before the directory goes
        os.environ["PYTEST_SHARED"] = directory.name


def shared(name: str) -> Path:
    """Return the path of a file in the directory that all processes of this run share."""
    return Path(os.environ["PYTEST_SHARED"]) / name


@contextlib.contextmanager
def locked(name: str, how: int = fcntl.LOCK_EX) -> Iterator[None]:
    """Hold a lock that all processes of this run know by its name."""
    with shared(name).open("w") as lock:
        fcntl.flock(lock, how)
        yield


def stop(_: int, __: object) -> None:
    """End the run as Ctrl-C does; a second signal, which pytest-xdist sends, must not hinder the clean-up."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist looks for groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the quiet tests last, so that the others wait for them but once; give groups to those that share a broker.

    Not every process starts a broker of its own then, and what takes long comes first: pytest-xdist begins with groups.
    """
    items.sort(key=is_quiet)
    breaking = itertools.cycle(f"breaking {number}" for number in range(3))
    for item in items:
        names = getattr(item, "fixturenames", ())
        if "own_broker" in names or "odd" in names:
            item.add_marker(pytest.mark.xdist_group("odd" if "odd" in names else next(breaking)))


def is_quiet(item: pytest.Item) -> bool:
    """Tell whether a test must run alone."""
    return item.get_closest_marker("quiet") is not None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Run a test marked `quiet` while no other runs, in whichever process; its fixtures, too."""
    with contextlib.ExitStack() as room:
        with locked("gate"):  # who waits to be alone holds the gate, or others would go on entering the room
            room.enter_context(locked("room", fcntl.LOCK_EX if is_quiet(item) else fcntl.LOCK_SH))
        return (yield)


@pytest.fixture(scope="session")
def kafka() -> None:
    """Skip what needs Kafka where it cannot be downloaded; in CI that is a failure."""
    with locked("download"):  # one process downloads for all
        try:
            kafka_jars()
            keep_loaded_classes()
        except NoKafka as error:
            missing(str(error))


@pytest.fixture(scope="session")
def broker(kafka: None) -> Broker:
    """The broker of all processes, which nobody stops; whoever needs it first starts it."""
    # Its controller does not give it up where the machine stands still a while.
    broker = Broker(shared("broker"), QUICK_START, **{"broker.session.timeout.ms": "60000"})
    with locked("broker.lock"):
        state = shared("broker.json")
        if state.exists():
            broker.ports = json.loads(state.read_text())["ports"]
        else:
            broker.directory.mkdir()
            broker.__enter__()
            assert broker.process is not None
            state.write_text(json.dumps({"ports": broker.ports, "pid": broker.process.pid}))
    return broker


def end_broker() -> None:
    """End the broker of all processes, once these have ended; the one that started it may have been killed."""
    with contextlib.suppress(FileNotFoundError, psutil.NoSuchProcess):
        process = psutil.Process(json.loads(shared("broker.json").read_text())["pid"])
        process.kill()
        process.wait()


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
    assert breakable_broker.process is not None
    breakable_broker.process.send_signal(signal.SIGCONT)  # a test that has failed may have left it frozen
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
