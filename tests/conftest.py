"""One broker for all tests that only read and write, and one of its own for a test that stops it."""

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from harness.broker import QUICK_START, Broker, NoKafka, kafka_jars, temporary_broker
from harness.environment import missing
from harness.process import Run, Start
from harness.settings import write_config
from harness.terminal import Terminal

_number = itertools.count(1)


@pytest.fixture(scope="session")
def kafka() -> None:
    """Skip what needs Kafka where it cannot be downloaded; in CI that is a failure."""
    try:
        kafka_jars()
    except NoKafka as error:
        missing(str(error))


@pytest.fixture(scope="session")
def broker(kafka: None) -> Iterator[Broker]:
    """The broker that nobody stops."""
    with temporary_broker(QUICK_START) as running:
        yield running


@pytest.fixture
def own_broker(kafka: None) -> Iterator[Broker]:
    """A broker of the test's own, which it may stop, kill and start again."""
    with temporary_broker(QUICK_START) as running:
        yield running


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
