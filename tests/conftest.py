"""One broker for all tests that only read and write, and `consumer.py` as a process, as a user runs it."""

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from broker import PASSWORD, USER, Broker, NoKafka, kafka_jars, temporary_broker

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "consumer.py"
_number = itertools.count(1)


@pytest.fixture(scope="session")
def kafka() -> None:
    """Skip what needs Kafka where it cannot be downloaded; in CI that is a failure."""
    try:
        kafka_jars()
    except NoKafka as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def broker(kafka: None) -> Iterator[Broker]:
    """The broker that nobody stops."""
    with temporary_broker() as running:
        yield running


@pytest.fixture
def own_broker(kafka: None) -> Iterator[Broker]:
    """A broker of the test's own, which it may stop, kill and start again."""
    with temporary_broker() as running:
        yield running


@pytest.fixture
def topic(broker: Broker) -> str:
    """A new topic with one partition."""
    return broker.create_topic(f"tron.test-{next(_number)}")


@pytest.fixture
def topic3(broker: Broker) -> str:
    """A new topic with three partitions."""
    return broker.create_topic(f"tron.test-{next(_number)}", partitions=3)


def settings(broker: Broker, **overrides: str | None) -> dict[str, str]:
    """Return the keys of a config.ini for `broker`; None drops a key, and __ in a name stands for a dot."""
    keys: dict[str, str | None] = {
        "bootstrap.servers": broker.address(),
        "group.id": f"{USER}-{next(_number)}",
        "security.protocol": "SASL_SSL",
        "sasl.mechanisms": "SCRAM-SHA-512",
        "sasl.username": USER,
        "sasl.password": PASSWORD,
        "ssl.ca.location": str(broker.certificates / "server.cer.pem"),
        "ssl.certificate.location": str(broker.certificates / "client.cer.pem"),
        "ssl.key.location": str(broker.certificates / "client.key.pem"),
        "ssl.endpoint.identification.algorithm": "none",
        "auto.offset.reset": "earliest",
        "session.timeout.ms": "6000",
        **{key.replace("__", "."): value for key, value in overrides.items()},
    }
    return {key: value for key, value in keys.items() if value is not None}


def new_protocol(**overrides: str | None) -> dict[str, str | None]:
    """Return the overrides for `settings` that choose the consumer group protocol of KIP-848."""
    return {"group__protocol": "consumer", "session__timeout__ms": None, **overrides}


PROTOCOLS = pytest.mark.parametrize("protocol", [{}, new_protocol()], ids=["classic", "consumer"])


def write_config(directory: Path, keys: dict[str, str], name: str = "config.ini") -> Path:
    """Write an INI that only its owner can read, and return its path."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / name
    path.write_text("[kafka]\n" + "".join(f"{key} = {value}\n" for key, value in keys.items()), encoding="utf-8")
    path.chmod(0o600)
    return path


class Run:
    """One process of consumer.py. Its standard output and error go to files, unless others are given."""

    def __init__(self, directory: Path, arguments: list[str], **options: Any) -> None:
        number = next(_number)
        self.stdout_path = directory / f"stdout-{number}"
        self.stderr_path = directory / f"stderr-{number}"
        with self.stdout_path.open("wb") as out, self.stderr_path.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, str(SCRIPT), *arguments],
                **{"stdin": subprocess.DEVNULL, "stdout": out, "stderr": err, **options},
            )

    @property
    def stdout(self) -> str:
        """What it has written so far."""
        return self.stdout_path.read_text(encoding="utf-8")

    @property
    def stderr(self) -> str:
        """What it has said so far."""
        return self.stderr_path.read_text(encoding="utf-8")

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The whole lines written so far, parsed."""
        return parse(self.stdout[: self.stdout.rfind("\n") + 1])

    def wait_for(self, what: "Callable[[Run], Any]", seconds: float = 30) -> None:
        """Wait until what(self) is true; fail with the process's output where it never is."""
        deadline = time.monotonic() + seconds
        while not what(self):
            assert time.monotonic() < deadline, f"not within {seconds} s; {self.stdout[-500:]!r}\n{self.stderr[-2000:]}"
            time.sleep(0.02)

    def wait_for_lines(self, count: int, seconds: float = 30) -> None:
        """Wait until so many lines have been written."""
        self.wait_for(lambda run: run.stdout.count("\n") >= count, seconds)

    def wait_for_words(self, words: str, seconds: float = 30) -> None:
        """Wait until standard error has these words."""
        self.wait_for(lambda run: words in run.stderr, seconds)

    def end(self, seconds: float = 30) -> int:
        """Wait for its end; return its exit status."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            pytest.fail(f"did not end within {seconds} s; standard error: {self.stderr[-2000:]}")

    def stop(self, how: int = signal.SIGINT) -> int:
        """Send a signal and wait for the end; return the exit status."""
        self.process.send_signal(how)
        return self.end()

    def kill(self) -> None:
        """End it at once, as kill -9 does."""
        self.process.kill()
        self.process.wait()


def parse(text: str) -> list[dict[str, Any]]:
    """Return the JSON objects of JSON Lines."""
    return [json.loads(line) for line in text.split("\n")[:-1]]


Start = Callable[..., Run]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """A function that starts consumer.py on settings, a topic, and further arguments; whatever still runs is killed."""
    runs: list[Run] = []

    def start(keys: dict[str, str], topic: str, *arguments: str, **options: Any) -> Run:
        config = write_config(tmp_path, keys, f"config-{next(_number)}.ini")
        runs.append(Run(tmp_path, ["--config", str(config), "--topic", topic, *arguments], **options))
        return runs[-1]

    yield start
    for run in runs:
        if run.process.poll() is None:
            run.kill()


@contextlib.contextmanager
def seconds_at_most(limit: float) -> Iterator[None]:
    """Fail where the block takes longer."""
    began = time.monotonic()
    yield
    took = time.monotonic() - began
    assert took <= limit, f"took {took:.1f} s instead of at most {limit} s"
