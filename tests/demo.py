#!/usr/bin/env python3
"""Try consumer.py without an account: start a real Kafka on this machine, feed it blocks, and read them.

    $ python tests/demo.py
    demo: starting Kafka: 7 s
    demo: lines are cut to fit; Ctrl-C ends it, and deletes its directory. In a second terminal:
        cd /tmp/kafka-demo-k1c2a3b4 && PATH=/home/me/kafka/.venv/bin:$PATH
        python consumer.py --topic tron.broadcasted.transactions
    tron.broadcasted.transactions: 3 partitions, group tron_user-demo: starts at the beginning
    tron.broadcasted.transactions: assigned 3 partitions
    {"partition": 0, "offset": 0, "value": "{\\"Chain\\":{\\"ChainId\\":\\"6d61696e6e6574\\"},\\"Head}

What to do in the second terminal is said again before it scrolls away. Standard output is the consumer's alone, and
where it is no terminal nothing is cut, so that `python tests/demo.py | head -n 3` works.
"""

import contextlib
import itertools
import json
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import lz4.frame
import psutil
from harness.blocks import SLOT, proto_block, proto_trades, transaction_block
from harness.broker import INTERRUPTED, QUICK_START, USER, Broker, NoKafka, jars_directory, kafka_jars
from harness.environment import SCRIPT
from harness.settings import settings, write_config

TOPIC = "tron.broadcasted.transactions"
BLOCKS = {TOPIC: transaction_block, "tron.transactions.proto": proto_block, "solana.dextrades.proto": proto_trades}
PARTITIONS = 3
PAUSE_SECONDS = 0.3  # between two blocks
GOODBYE_SECONDS = 10  # for the consumer to leave its group; it needs two at the most
# SIGHUP, which Windows has not: the terminal has been closed.
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM))
ON_SCREEN = sys.stdout.isatty() and sys.stderr.isatty()
WRAP, CUT = ("\x1b[?7h", "\x1b[?7l") if ON_SCREEN else ("", "")  # what becomes of lines that are too long (DECAWM)


def say(text: str, end: str = "\n") -> None:
    """Print a line on standard error."""
    with contextlib.suppress(OSError):  # a terminal that is gone must not hinder the clean-up
        sys.stderr.write(text + end)
        sys.stderr.flush()


@contextlib.contextmanager
def saying(text: str) -> Iterator[None]:
    """Say what the block does, and on a terminal for how many seconds by now."""
    began = time.monotonic()
    ended = threading.Event()

    def count() -> None:
        while sys.stderr.isatty() and not ended.wait(1):
            say(f"\r{text}: {time.monotonic() - began:.0f} s", end="")

    say(text, end="")
    counter = threading.Thread(target=count, daemon=True)
    counter.start()
    try:
        yield
    finally:
        ended.set()
        counter.join()
        say("")


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


def show(lines: Iterable[str]) -> None:
    """Say lines in full on a terminal that cuts what is too long."""
    for line in lines:
        say(f"{WRAP}{line.rstrip()}{CUT}")


def key(topic: str, number: int) -> str:
    """Return the key that the messages of block `number` have: the slot on Solana, and elsewhere the hash."""
    if topic.startswith("solana."):
        return str(SLOT + number)
    return str(json.loads(transaction_block(number))["Header"]["Hash"])


def feed_while_it_runs(broker: Broker, arguments: list[str], hint: str) -> int:
    """Run consumer.py, and send blocks until it ends; return its exit status. KeyboardInterrupt ends it, too.

    The hint is said first and, on a terminal, again in each screenful.
    """
    # In a session of its own a Ctrl-C in the terminal does not reach it: a second signal would cut its goodbye short,
    # and one that comes before it listens would be a traceback.
    consumer = subprocess.Popen(
        [sys.executable, str(SCRIPT), *arguments],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    )
    relay = threading.Thread(target=show, args=[consumer.stderr], daemon=True)
    relay.start()
    try:
        for number in itertools.count():
            screenful = max(1, shutil.get_terminal_size().lines - hint.count("\n") - 2)
            if number == 0 or (ON_SCREEN and number % screenful == 0):
                show([hint])
            for topic, block in BLOCKS.items():
                value = lz4.frame.compress(block(number))
                broker.producer.produce(topic, value, key(topic, number), partition=number % PARTITIONS)
            broker.producer.poll(0)
            with contextlib.suppress(subprocess.TimeoutExpired):
                return consumer.wait(PAUSE_SECONDS)
    except KeyboardInterrupt:
        consumer.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            consumer.wait(GOODBYE_SECONDS)
        raise
    finally:
        relay.join(1)
        say("demo: stopping Kafka")
    raise AssertionError("unreachable")


def demo() -> int:
    """Start the broker, show its stream, stop everything; return the exit status of the consumer."""
    if not jars_directory().is_dir():
        with saying("demo: downloading Apache Kafka (45 MB, this once)"):
            kafka_jars()
    with (
        tempfile.TemporaryDirectory(prefix="kafka-demo-") as name,
        leaving_no_process(),
        contextlib.ExitStack() as stack,
    ):
        directory = Path(name)
        with saying("demo: starting Kafka"):
            broker = stack.enter_context(Broker(directory, QUICK_START))
            for topic in BLOCKS:
                broker.create_topic(topic, PARTITIONS)
        config = write_config(directory / "demo.ini", settings(broker, {"group.id": f"{USER}-demo"}))
        # For the second terminal: with a group of its own, all partitions are its own.
        write_config(directory / "config.ini", settings(broker, {"group.id": None}))
        shutil.copy(SCRIPT, directory)
        hint = (
            f"demo: {'lines are cut to fit; ' if ON_SCREEN else ''}Ctrl-C ends it, and deletes its directory. "
            "In a second terminal:\n"
            f"    cd {shlex.quote(name)} && PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH\n"
            f"    python consumer.py --topic {TOPIC}"
        )
        return feed_while_it_runs(broker, ["--config", str(config), "--topic", TOPIC], hint)


def main() -> int:
    """Run the demo; return its exit status: 0 after Ctrl-C, SIGTERM, or the end of its reader."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.default_int_handler)
    try:
        return demo()
    except INTERRUPTED:
        return 0
    except (NoKafka, RuntimeError) as error:
        say(f"error: {error}")
        return 1
    finally:
        say(WRAP, end="")


if __name__ == "__main__":
    sys.exit(main())
