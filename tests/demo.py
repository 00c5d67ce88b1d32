#!/usr/bin/env python3
"""Try consumer.py without an account: start a real Kafka on this machine, feed it Tron transactions, and read them.

    $ python tests/demo.py
    demo: getting Apache Kafka (a download of 45 MB the first time)
    demo: starting it in /tmp/kafka-demo-k1c2a3b4
    demo: about 3 messages a second arrive; this command reads them; Ctrl-C stops everything:

    /home/me/kafka/.venv/bin/python /home/me/kafka/consumer.py --config /tmp/kafka-demo-k1c2a3b4/config.ini --topic …

    tron.broadcasted.transactions: 3 of 3 partitions, group tron_user-group-1: starts at the beginning
    {"partition": 0, "offset": 0, "value": "{\\"Chain\\":{\\"ChainId\\":\\"6d61696e6e6574\\"},…"}

Standard output is the consumer's alone, so that `python tests/demo.py | head -n 3` works.
"""

import contextlib
import itertools
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import lz4.frame
import psutil
from harness.blocks import transaction_block
from harness.broker import PASSWORD, USER, Broker, NoKafka, kafka_jars

TOPIC = "tron.broadcasted.transactions"
PARTITIONS = 3
PAUSE_SECONDS = 0.3  # between two messages
GOODBYE_SECONDS = 10  # for the consumer to leave its group; it needs two at the most
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # SIGHUP: the terminal has been closed
SCRIPT = Path(__file__).resolve().parent.parent / "consumer.py"


def say(text: str) -> None:
    """Print a line on standard error."""
    with contextlib.suppress(OSError):  # a terminal that is gone must not hinder the clean-up
        print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def leaving_no_process() -> Iterator[None]:
    """Kill what the block has started and not stopped, because a Ctrl-C came in an unlucky moment, or twice."""
    try:
        yield
    finally:
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)  # nothing but this and the removal of the directory is left to do
        children = psutil.Process().children(recursive=True)
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        psutil.wait_procs(children)


def write_config(broker: Broker) -> Path:
    """Write the broker's config.ini, which only its owner can read, beside its certificates; return its path."""
    settings = {
        "bootstrap.servers": broker.address(),
        "sasl.username": USER,
        "sasl.password": PASSWORD,
        "security.protocol": "SASL_SSL",
        "sasl.mechanisms": "SCRAM-SHA-512",
        "ssl.ca.location": "certs/server.cer.pem",
        "ssl.certificate.location": "certs/client.cer.pem",
        "ssl.key.location": "certs/client.key.pem",
        "ssl.endpoint.identification.algorithm": "none",
        "auto.offset.reset": "earliest",  # latest could miss what is sent while the consumer starts
    }
    path = broker.directory / "config.ini"
    path.touch(mode=0o600)
    path.write_text("[kafka]\n" + "".join(f"{key} = {value}\n" for key, value in settings.items()), encoding="utf-8")
    return path


def feed_while_it_runs(broker: Broker, command: list[str]) -> int:
    """Run the command and send messages until it ends; return its exit status. KeyboardInterrupt ends it, too."""
    # In a session of its own a Ctrl-C in the terminal does not reach it: a second signal would cut its goodbye short,
    # and one that comes before it listens would be a traceback.
    consumer = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        for number in itertools.count():
            broker.producer.produce(TOPIC, lz4.frame.compress(transaction_block(number)), partition=number % PARTITIONS)
            broker.producer.poll(0)
            with contextlib.suppress(subprocess.TimeoutExpired):
                return consumer.wait(PAUSE_SECONDS)
    except KeyboardInterrupt:
        consumer.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            consumer.wait(GOODBYE_SECONDS)
        raise
    raise AssertionError("unreachable")


def demo() -> int:
    """Start the broker, show its stream, stop everything; return the exit status of the consumer."""
    with tempfile.TemporaryDirectory(prefix="kafka-demo-") as name, leaving_no_process():
        say("demo: getting Apache Kafka (a download of 45 MB the first time)")
        kafka_jars()
        say(f"demo: starting it in {name}")
        with Broker(Path(name)) as broker:
            broker.create_topic(TOPIC, PARTITIONS)
            config = write_config(broker)
            command = [sys.executable, str(SCRIPT), "--config", str(config), "--topic", TOPIC]
            say("demo: about 3 messages a second arrive; this command reads them; Ctrl-C stops everything:")
            say(f"\n{shlex.join(command)}\n")
            try:
                return feed_while_it_runs(broker, command)
            finally:
                say("demo: stopping Kafka")


def main() -> int:
    """Run the demo; return its exit status: 0 after Ctrl-C, SIGTERM, or the end of its reader."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.default_int_handler)
    try:
        return demo()
    except KeyboardInterrupt:
        return 0
    except (NoKafka, RuntimeError) as error:
        say(f"error: {error}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
