#!/usr/bin/env python3
"""Let chance break what consumer.py depends on, and check what it promises.

    $ python tests/chaos.py --seconds 60 --seed 7 --copies 3

Three nodes of Kafka, a producer that never stops, copies of the script in one group, each with an output of its own
to which its restarts append: a file, or a pipe. The seed draws which faults come when, the same ones each time: for 30
seconds whatever may fail, 20 in which that heals, 40 in which only copies, their group and their readers do. At the end
all heals, the group catches up, is stopped as a whole and started once more. Exit status 1: a promise has been broken;
the files are kept. Needs Linux and tests/requirements.txt.
"""

import argparse
import concurrent.futures
import contextlib
import hashlib
import heapq
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import lz4.frame
from confluent_kafka import Consumer, ElectionType, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import NewPartitions
from harness.broker import INTERRUPTED, PASSWORD, Broker, wait
from harness.cluster import Cluster
from harness.environment import SCRIPT, undo_nohup, user_environment
from harness.process import value_of, with_client
from harness.proxy import Proxy
from harness.settings import NEW_PROTOCOL, settings, write_config

TOPIC = "tron.chaos"
PARTITIONS = 4  # at the start

STORM_SECONDS, ROUND_SECONDS = 30, 90
TICK = 0.05  # seconds between two looks at everything
YOUNG = 5.0  # seconds until a run's handlers of signals are there for sure
HEAL_SECONDS = 120  # for the group to print all once everything works again

COMMIT_SECONDS = 2.5  # auto.commit.interval.ms, a commit on a busy machine, and what a look at a file is late
STOP_SECONDS = 7.5  # five, one for the words, and a machine with other things to do
RECOVERY_SECONDS = 20  # a new leader and coordinator, and librdkafka's rest before it connects again
DEAD_SECONDS = 25  # socket.timeout.ms is 30 s, of which five are of the recovery
REBALANCE_SECONDS = 20  # a session.timeout.ms, and a group's joining
STEADY_SECONDS = 8  # without a rebalance, for a group's last one to be over
IN_HAND = 100  # messages that a copy may have in hand when a partition is taken from it: the script's BATCH

Digest = bytes | None


# -- what is sent


VALUES = {  # kind -> how often it is drawn
    "frame": 50,
    "frames": 10,
    "text": 20,
    "binary": 10,
    "empty": 4,
    "tombstone": 4,
    "large": 0.5,
    "large frame": 0.5,
}


def message(seed: int, number: int) -> tuple[bytes | None, bytes | None]:
    """Return a value as it is sent, and as a reader gets it; the same number gives the same."""
    dice = random.Random(f"{seed}/{number}")
    size = dice.choice((32, 2000))
    text = f'{{"number":{number},"hash":"{dice.randbytes(size).hex()}","text":"ü\\u0007\u2028"}}'.encode()
    (kind,) = dice.choices([*VALUES], [*VALUES.values()])
    if kind == "frame":
        return lz4.frame.compress(text), text
    if kind == "frames":
        return lz4.frame.compress(text) + lz4.frame.compress(text[::-1]), text + text[::-1]
    if kind == "binary":
        value = b"\xff" + dice.randbytes(300)
        return value, value
    if kind == "large":
        text = dice.randbytes(1 << 16).hex().encode()
    if kind == "large frame":
        text *= (1 << 20) // len(text)
        return lz4.frame.compress(text), text
    return {"text": (text, text), "large": (text, text), "empty": (b"", b"")}.get(kind, (None, None))


def digest(value: bytes | None) -> Digest:
    """Return what is kept of a value."""
    return None if value is None else hashlib.blake2b(value, digest_size=16).digest()


class Feed:
    """A producer that sends so many messages a second, and knows which were acknowledged, and where they are."""

    def __init__(self, cluster: Cluster, seed: int, rate: int) -> None:
        self.seed, self.rate = seed, rate
        self.address = cluster.address("PLAINTEXT")
        self.partitions = PARTITIONS
        self.acknowledged: dict[int, tuple[int, int | None]] = {}  # number -> partition and, where it is known, offset
        self._numbers = itertools.count()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._send)
        properties: dict[str, Any] = {"enable.idempotence": True, "acks": "all", "message.timeout.ms": 600_000}
        properties["topic.metadata.refresh.interval.ms"] = 1000
        self._producer = Producer({"bootstrap.servers": self.address, "log_level": 0, "linger.ms": 0, **properties})

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def _send(self) -> None:
        began = time.monotonic()
        for count in itertools.count():
            while (ahead := count / self.rate - (time.monotonic() - began)) > 0 and not self._stop.is_set():
                self._producer.poll(min(ahead, 0.1))
            if self._stop.is_set():
                return
            self.send()

    def send(self) -> None:
        """Send the next message."""
        number = next(self._numbers)

        def delivered(error: Any, sent: Any) -> None:
            if not error:
                offset = sent.offset()  # a duplicate that the broker has dropped has none
                self.acknowledged[number] = (sent.partition(), offset if offset is not None and offset >= 0 else None)

        value, _ = message(self.seed, number)
        for partitions in (self.partitions, PARTITIONS):  # it may have yet to hear of a new one
            with contextlib.suppress(KafkaException):
                self._producer.produce(TOPIC, value, str(number), number % partitions, on_delivery=delivered)
                return

    def flush(self) -> int:
        """Return how many messages have yet to be acknowledged, in vain."""
        return self._producer.flush(60)

    def stop(self) -> int:
        """Stop sending; return how many messages could not be sent."""
        self._stop.set()
        self._thread.join()
        return self.flush()

    def topic(self) -> dict[tuple[int, int], int]:
        """Return the number of each message that the topic holds, by partition and offset."""
        client = Consumer({"bootstrap.servers": self.address, "group.id": "chaos", "enable.partition.eof": True})
        found = client.list_topics(TOPIC, timeout=30).topics[TOPIC].partitions
        client.assign([TopicPartition(TOPIC, partition, 0) for partition in found])
        numbers: dict[tuple[int, int], int] = {}
        open_ = set(found)
        while open_:
            for each in client.consume(1000, 1):
                if (error := each.error()) is None:
                    numbers[each.partition() or 0, each.offset() or 0] = int(each.key() or b"")
                elif error.code() == KafkaError._PARTITION_EOF:
                    open_.discard(each.partition() or 0)
        client.close()
        return numbers


# -- what may happen


class Kind(NamedTuple):
    """A kind of fault."""

    scope: str  # what it befalls
    storm: int  # how often it is drawn in a storm
    calm: int  # and in a calm
    least: float  # seconds
    most: float
    sent: signal.Signals | None = None  # to the copy, or to the node


REBALANCES = "rebalances of copies that pause"
KINDS = {
    "kill -9": Kind("copy", 5, 6, 0, 3, signal.SIGKILL),
    "SIGTERM": Kind("copy", 3, 3, 0, 3, signal.SIGTERM),
    "SIGINT": Kind("copy", 3, 3, 0, 3, signal.SIGINT),
    "SIGHUP": Kind("copy", 2, 2, 0, 3, signal.SIGHUP),
    "absence": Kind("copy", 2, 2, 8, 15, signal.SIGTERM),
    "short freeze": Kind("copy", 2, 0, 1, 2, signal.SIGSTOP),
    "long freeze": Kind("copy", 2, 0, 8, 12, signal.SIGSTOP),
    "SIGTERM to all copies": Kind("copies", 0, 1, 0, 2, signal.SIGTERM),
    "SIGINT to all copies": Kind("copies", 0, 1, 0, 2, signal.SIGINT),
    "SIGHUP to all copies": Kind("copies", 0, 1, 0, 2, signal.SIGHUP),
    REBALANCES: Kind("copies", 0, 10, 8, 12),
    "one more copy": Kind("group", 2, 2, 8, 15),
    "reader that stands still": Kind("reader", 4, 2, 1, 9),
    "reader that stands still, and kill -9": Kind("reader", 8, 6, 5, 9, signal.SIGKILL),
    "reader that is slow": Kind("reader", 4, 2, 4, 12),
    "reader that is slow, and SIGTERM": Kind("reader", 8, 4, 5, 9, signal.SIGTERM),
    "reader that goes": Kind("reader", 2, 2, 0, 2),
    "kill -9 of a node": Kind("node", 3, 0, 3, 10, signal.SIGKILL),
    "stop of a node": Kind("node", 3, 0, 3, 10, signal.SIGTERM),
    "freeze of a node": Kind("node", 2, 0, 2, 8, signal.SIGSTOP),
    "kill -9 of all nodes": Kind("nodes", 1, 0, 3, 8, signal.SIGKILL),
    "cut connections": Kind("node", 3, 0, 0, 0),
    "dead connections": Kind("node", 2, 0, DEAD_SECONDS, DEAD_SECONDS),
    "slow link": Kind("node", 3, 0, 4, 10),
    "leaders moved back": Kind("topic", 2, 0, 0, 0),
    "partition added": Kind("topic", 1, 1, 0, 0),
    "wrong password": Kind("user", 1, 0, 4, 10),
}
NETWORK = ("node", "nodes", "user")  # scopes of faults under which a commit or a start may fail


@dataclass(frozen=True)
class Fault:
    """What happens at a time in seconds since the start, to a copy or a node by number, and for how long."""

    at: float
    kind: str
    target: int
    seconds: float

    def __str__(self) -> str:
        """Return a line of the schedule."""
        scope = KINDS[self.kind].scope
        whose = f" ({scope.replace('reader', 'copy')} {self.target})" if scope in ("copy", "reader", "node") else ""
        return f"{self.at:7.1f} s  {self.kind}{whose}, {self.seconds:.1f} s"


def pipes_of(seed: int, copies: int) -> list[int]:
    """Return which copies write to a pipe: all but one."""
    return [copy for copy in range(copies) if copy != seed % copies] or [0]


def schedule(seed: int, seconds: float, copies: int) -> list[Fault]:
    """Draw the faults, never two at a time of a scope for the same target.

    A calm begins with a stop of all copies, and goes on with REBALANCES.
    """
    dice, pipes = random.Random(seed), pipes_of(seed, copies)
    faults: list[Fault] = []
    busy: dict[tuple[str, int], float] = {}
    at = 2.0
    while (at := at + dice.uniform(0.1, 1)) < seconds - 3:
        in_round = at % ROUND_SECONDS
        calm = in_round > STORM_SECONDS
        resting = calm and in_round < STORM_SECONDS + RECOVERY_SECONDS
        (name,) = dice.choices([*KINDS], [kind.calm if calm else kind.storm for kind in KINDS.values()])
        so_far = sum(fault.at > at - in_round + STORM_SECONDS for fault in faults)  # since the storm
        if calm and so_far == 0:
            name = dice.choice([name for name, each in KINDS.items() if each.scope == "copies" and each.sent])
        elif calm and so_far == 1:
            name = REBALANCES
        kind = KINDS[name]
        scope = kind.scope
        target = {"copy": dice.randrange(copies), "node": dice.randrange(3), "reader": dice.choice(pipes)}.get(scope, 0)
        lasts = dice.uniform(kind.least, kind.most)
        if not calm:
            lasts = min(lasts, STORM_SECONDS - in_round)
        slots = [(scope, target)]
        if scope == "copies":
            slots += [(each, copy) for each in ("copy", "reader") for copy in range(copies + 1)]
        elif name == "one more copy":
            slots = [("copy", copies)]
        elif scope == "reader" and kind.sent:
            slots += [("copy", target)]
        if lasts < kind.least or resting or any(busy.get(slot, 0) > at for slot in slots):
            continue
        for slot in slots:
            busy[slot] = at + lasts + 3
        faults.append(Fault(at, name, target, lasts))
    return faults


@dataclass
class Event:
    """What explains that messages are printed again: from when to when, for one run or for all."""

    kind: str
    begin: float
    end: float
    run: "CopyRun | None" = None
    after: float = 0  # seconds in which it still has consequences

    def explains(self, run: "CopyRun", moment: float) -> bool:
        """Tell whether a message printed by the run at the moment may have been left uncommitted for it."""
        ours = self.run is None or self.run is run
        return ours and self.begin - COMMIT_SECONDS <= moment <= self.end + self.after


# -- the copies


@dataclass(frozen=True)
class Line:
    """A line that a copy has printed, and when it was seen."""

    partition: int
    offset: int
    value: Digest
    moment: float


class CopyRun:
    """One process of the script."""

    def __init__(self, process: "subprocess.Popen[bytes]", log: Path, moment: float) -> None:
        self.process, self.log, self.began = process, log, moment
        self.lines: list[Line] = []
        self.ended: float | None = None
        self.exited: float | None = None  # its pipe may be read out later
        self.stopped: float | None = None  # when it was asked to stop
        self.killed = self.left = False  # by SIGKILL; by the program that reads its pipe
        self.writes = False
        self.known = ""

    @property
    def said(self) -> str:
        """What it has said on standard error."""
        return self.log.read_text(encoding="utf-8")

    def news(self) -> str:
        """Return what it has said since the last call."""
        before, self.known = self.known, self.said
        return self.known[len(before) :]

    @property
    def greeted(self) -> bool:
        """Whether its start has succeeded."""
        return ", group " in self.said

    @property
    def error(self) -> str:
        """Its line that begins with `error: `."""
        return next((line for line in self.said.splitlines() if line.startswith("error: ")), "")


@dataclass
class Reader:
    """The program that reads a copy's pipe, and appends what it gets to the copy's file."""

    path: Path
    still: bool = False
    slow: bool = False
    hindered_until: float = 0
    lock: Any = field(default_factory=threading.Lock)

    def start(self, run: CopyRun) -> threading.Thread:
        """Read until the run has ended or has been left."""
        thread = threading.Thread(target=self._read, args=[run], daemon=True)
        thread.start()
        return thread

    def _read(self, run: CopyRun) -> None:
        pipe = run.process.stdout
        assert pipe is not None
        with self.path.open("ab", buffering=0) as file, pipe:
            while True:
                if self.still:
                    time.sleep(TICK)
                    continue
                with self.lock:
                    if run.left:
                        return
                    os.set_blocking(pipe.fileno(), False)
                    with contextlib.suppress(BlockingIOError):
                        data = os.read(pipe.fileno(), 1 << 14 if self.slow else 1 << 16)
                        if not data:
                            return
                        file.write(data)
                        if not self.slow:
                            continue
                time.sleep(0.15 if self.slow else 0.005)  # 0.1 MB/s

    def leave(self, run: CopyRun) -> None:
        """Go away, with all that the run has written: what is in a pipe whose reader goes is lost with it."""
        run.process.send_signal(signal.SIGSTOP)
        time.sleep(0.1)
        with self.lock, contextlib.suppress(BlockingIOError, ValueError), self.path.open("ab", buffering=0) as file:
            run.left = True
            pipe = run.process.stdout
            assert pipe is not None
            try:
                while data := os.read(pipe.fileno(), 1 << 16):
                    file.write(data)
            finally:
                pipe.close()


class Copy:
    """A copy of the script, started again whenever it has ended, as a service is, with one file for all its runs."""

    def __init__(
        self, number: int, command: list[str], directory: Path, piped: bool, printed: set[tuple[int, int]]
    ) -> None:
        self.number, self.command, self.directory, self.printed = number, command, directory, printed
        self.path = directory / f"copy-{number}.jsonl"
        self.path.touch()
        self.reader = Reader(self.path) if piped else None
        self.thread: threading.Thread | None = None
        self.runs: list[CopyRun] = []
        self.wanted = False
        self.again = 0.0  # when it may be started
        self._read = 0
        self._rest = b""
        self.wrong: list[str] = []

    @property
    def run(self) -> CopyRun | None:
        """The run that has not ended."""
        return self.runs[-1] if self.runs and self.runs[-1].ended is None else None

    def start(self) -> None:
        """Start it."""
        log = self.directory / f"copy-{self.number}-run-{len(self.runs) + 1}.log"
        with self.path.open("ab") as out, log.open("wb") as err:
            if self.reader and self._rest:
                out.write(b"\n")  # the half line of a run that was killed
                out.flush()
            process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if self.reader else out,
                stderr=err,
                env=user_environment(),
            )
        self.runs.append(CopyRun(process, log, time.monotonic()))
        self.thread = self.reader.start(self.runs[-1]) if self.reader else None

    def look(self) -> CopyRun | None:
        """Take what has been printed since the last look; return the run where it has ended by now."""
        run = self.run
        over = run is not None and run.process.poll() is not None
        if run is not None and over and run.exited is None:
            run.exited = time.monotonic()
        if run is None or (over and self.thread is not None and self.thread.is_alive()):
            return None
        with self.path.open("rb") as file:
            file.seek(self._read)
            data = file.read()
        now = time.monotonic()
        self._read += len(data)
        if data and not run.writes and self._rest:
            if not data.startswith(b"\n"):
                self.wrong.append(f"copy {self.number}: a line was added to the half of another: {data[:80]!r}")
            data, self._rest = data[1:], b""
        run.writes = run.writes or data != b""
        *whole, self._rest = (self._rest + data).split(b"\n")
        for text in whole:
            self._take(run, text, now)
        if not over:
            return None
        run.ended = now
        if self._rest and not (run.killed or run.left or run.process.returncode in (1, -signal.SIGSEGV)):
            self.wrong.append(f"copy {self.number}: ended with half a line: {self._rest[:80]!r}")
        return run

    def _take(self, run: CopyRun, text: bytes, now: float) -> None:
        try:
            line = json.loads(text)
            run.lines.append(Line(line["partition"], line["offset"], digest(value_of(line)), now))
            self.printed.add((line["partition"], line["offset"]))
        except (ValueError, KeyError, TypeError):
            self.wrong.append(f"copy {self.number}: a broken line: {text[:80]!r}")


# -- the run


class Chaos:
    """Carries the faults out, and keeps what is needed to judge."""

    def __init__(self, options: argparse.Namespace, directory: Path, cluster: Cluster, proxies: list[Proxy]) -> None:
        dice = random.Random(f"{options.seed}/settings")
        self.cluster, self.proxies, self.options = cluster, proxies, options
        self.feed = Feed(cluster, options.seed, options.rate)
        self.protocol, self.reset = dice.choice(["classic", "consumer"]), dice.choice(["earliest", "latest"])
        pipes = pipes_of(options.seed, options.copies)
        keys = {
            **(NEW_PROTOCOL if self.protocol == "consumer" else {}),
            "bootstrap.servers": ",".join(f"127.0.0.1:{proxy.port}" for proxy in proxies),
            "auto.offset.reset": self.reset,
            "topic.metadata.refresh.interval.ms": "5000",  # [300000] until an added partition is seen
            "heartbeat.interval.ms": None if self.protocol == "consumer" else "500",  # until a rebalance is heard of
        }
        merged = settings(cluster, keys)
        self.group, config = merged["group.id"], write_config(directory / "config.ini", merged)
        self.pause = directory / "pause"
        # As a busy machine might do it, between the two calls with which the script takes what has come.
        pausing = f"""
            def consume(self, *arguments):
                if os.path.exists({str(self.pause)!r}):
                    time.sleep(0.2)
                return super().consume(*arguments)"""
        command = [*with_client(pausing, options.script), "--config", str(config), "--topic", TOPIC]
        numbers = range(options.copies + 1)  # the last one comes and goes
        self.printed: set[tuple[int, int]] = set()  # (partition, offset), by any copy
        self.copies = [Copy(number, command, directory, number in pipes, self.printed) for number in numbers]
        self.faults = schedule(options.seed, options.seconds, options.copies)
        self.events: list[Event] = []
        self.rebalances: list[float] = []
        self.orderly_stops: list[tuple[float, list[CopyRun]]] = []  # when all these had ended
        self.all_stopped_by: list[CopyRun] = []
        self.wrong: list[str] = []
        self.stops: list[float] = []  # seconds
        self.admin = concurrent.futures.ThreadPoolExecutor(1)  # one after the other, each until it is done
        self.began = 0.0
        self.pending: list[tuple[float, int, Callable[[], None]]] = []  # what a fault does at its end
        self._order = itertools.count()

    @property
    def running(self) -> list[CopyRun]:
        """The runs that have not ended."""
        return [copy.run for copy in self.copies if copy.run is not None]

    def say(self, text: str) -> None:
        """Print a line of what happens."""
        print(text, flush=True)

    def later(self, moment: float, action: Callable[[], None]) -> None:
        """Do something at a time."""
        heapq.heappush(self.pending, (moment, next(self._order), action))

    def administer(self, action: Callable[[], object]) -> None:
        """Ask the cluster for something until it does it."""

        def insist() -> None:
            deadline = time.monotonic() + HEAL_SECONDS
            while time.monotonic() < deadline:
                try:
                    action()
                    return
                except Exception:  # whatever the client raises while nodes are away
                    time.sleep(0.5)

        self.admin.submit(insist)

    # - faults

    def begin(self, fault: Fault) -> None:
        """Let a fault begin, and see to its end."""
        self.say(str(fault))
        now, kind = time.monotonic(), KINDS[fault.kind]
        end = now + fault.seconds
        if kind.scope in NETWORK:
            self.events.append(Event(fault.kind, now, end, after=RECOVERY_SECONDS))
        if kind.sent == signal.SIGSTOP and kind.scope == "copy":
            self.freeze(self.copies[fault.target], fault, end)
        elif kind.scope == "copy":
            assert kind.sent is not None
            self.stop(self.copies[fault.target], kind.sent, end)
        elif kind.scope == "reader":
            self.to_reader(self.copies[fault.target], fault.kind, end)
        elif kind.scope in ("node", "nodes"):
            for number in range(3) if kind.scope == "nodes" else [fault.target]:
                self.to_node(number, fault.kind, end)
        elif fault.kind == "one more copy":
            self.copies[-1].wanted = True
            self.later(end, lambda: self.take_away(self.copies[-1]))
        elif kind.scope == "copies" and kind.sent:
            if all(now - run.began > YOUNG and run.stopped is None for run in self.running):
                self.stop_group(kind.sent, end)
        elif fault.kind == REBALANCES:
            threading.Thread(target=self.unsettle, args=[end], daemon=True).start()
            self.rebalances += [now + seconds for seconds in range(int(fault.seconds) + 2)]
        elif fault.kind == "leaders moved back":
            self.administer(lambda: self.cluster.admin.elect_leaders(ElectionType.PREFERRED).result(20))
            self.rebalances.append(now)
        elif fault.kind == "partition added":
            self.administer(self.add_partition)
        else:
            assert fault.kind == "wrong password"
            self.administer(lambda: self.cluster.set_password("wrong"))
            self.later(end, lambda: self.administer(lambda: self.cluster.set_password(PASSWORD)))

    def stop(self, copy: Copy, how: signal.Signals, again: float) -> None:
        """Send a copy a signal, once it is there for sure, and have it started again at a time."""
        run, now = copy.run, time.monotonic()
        if run is None or run.stopped is not None:
            copy.again = max(copy.again, again)
        elif now - run.began < YOUNG:
            self.later(run.began + YOUNG, lambda: self.stop(copy, how, again))
        else:
            run.stopped, copy.again = now, again
            run.killed = how == signal.SIGKILL
            if run.killed:
                self.loses_its_place(run, "kill -9", now)
            run.process.send_signal(how)

    def stop_group(self, how: signal.Signals, again: float) -> None:
        """Send all copies a signal; where nothing else is the matter, it counts as an orderly stop."""
        runs = self.running
        for copy in self.copies:
            self.stop(copy, how, again)
        self.all_stopped_by = runs if self.steady(time.monotonic()) else []

    def take_away(self, copy: Copy) -> None:
        """Stop a copy for good."""
        copy.wanted = False
        self.stop(copy, signal.SIGTERM, 0)

    def freeze(self, copy: Copy, fault: Fault, end: float) -> None:
        """Let a copy stand still; where that is for long, the group goes on without it."""
        run = copy.run
        if run is None or run.stopped is not None:
            return
        run.process.send_signal(signal.SIGSTOP)
        self.later(end, lambda: run.process.send_signal(signal.SIGCONT))
        if fault.kind == "long freeze":
            self.events.append(Event(fault.kind, time.monotonic(), end, run, after=REBALANCE_SECONDS))
            self.rebalances += [time.monotonic(), end]

    def unsettle(self, end: float) -> None:
        """Join the group and leave it, again and again, while the copies pause with a message in hand; read nothing."""
        keys = {"bootstrap.servers": self.feed.address, "group.id": self.group, "group.protocol": self.protocol}
        self.pause.touch()
        while time.monotonic() < end:
            member = Consumer({**keys, "enable.auto.commit": False, "log_level": 0})
            member.subscribe([TOPIC])
            member.poll(1)
            member.close()
        self.pause.unlink()

    def to_reader(self, copy: Copy, kind: str, end: float) -> None:
        """Let the reader of a pipe stand still, be slow, or go."""
        reader, run = copy.reader, copy.run
        assert reader is not None
        if kind == "reader that goes":
            copy.again = end
            if run is not None and run.stopped is None and not reader.still:
                reader.leave(run)
                self.loses_its_place(run, kind, time.monotonic())
                run.process.send_signal(signal.SIGCONT)
            return
        name, how = "slow" if kind.startswith("reader that is slow") else "still", KINDS[kind].sent
        setattr(reader, name, True)
        reader.hindered_until = end
        if how:  # once its pipe is full, and what is stored has been committed
            self.later(end - 1, lambda: self.stop(copy, how, end))
        self.later(end, lambda: setattr(reader, name, False))

    def to_node(self, number: int, kind: str, end: float) -> None:
        """Stop, kill or freeze a node, or break its connections."""
        node, proxy, how = self.cluster.nodes[number], self.proxies[number], KINDS[kind].sent
        if kind == "cut connections":
            proxy.cut()
        elif kind == "dead connections":
            proxy.let_die()
        elif kind == "slow link":
            proxy.seconds = 1
            self.later(end, lambda: setattr(proxy, "seconds", 0))
        elif how and node.process is not None and node.process.poll() is None:
            node.process.send_signal(how)
            self.later(end, lambda: self.revive(node, how == signal.SIGSTOP))

    def revive(self, node: Broker, frozen: bool) -> None:
        """Let a frozen node go on, or start one that is down, or nearly so."""
        assert node.process is not None
        if frozen:
            node.process.send_signal(signal.SIGCONT)
        if not frozen or node.process.poll() is not None:
            node.stop(signal.SIGKILL)
            node.launch()
            threading.Thread(target=self.await_node, args=[node], daemon=True).start()

    def await_node(self, node: Broker) -> None:
        """Count a node's start, which takes long on a busy machine, as trouble until it answers or is killed again."""
        process, client, now = node.process, node.new_client(), time.monotonic()
        self.events.append(start := Event("start of a node", now, float("inf"), after=RECOVERY_SECONDS))
        while node.process is process and not node.answers(client):
            pass
        start.end = time.monotonic()

    def add_partition(self) -> None:
        """Add a partition, and send to it once it is there."""
        count = self.feed.partitions + 1
        with contextlib.suppress(Exception):  # an earlier attempt may have succeeded: what counts comes next
            wait(self.cluster.admin.create_partitions([NewPartitions(TOPIC, count)]))
        if len(self.cluster.admin.list_topics(TOPIC, timeout=10).topics[TOPIC].partitions) < count:
            raise RuntimeError("it is not there yet")
        self.feed.partitions = count
        self.rebalances.append(time.monotonic())

    # - what goes on

    def tick(self) -> None:
        """Look at everything once: what has been printed, who has ended, who is to be started."""
        now = time.monotonic()
        while self.pending and self.pending[0][0] <= now:
            heapq.heappop(self.pending)[2]()
        for copy in self.copies:
            if (ended := copy.look()) is not None:
                self.judge_end(copy, ended)
                self.rebalances.append(now)
            run = copy.run
            news = run.news() if run is not None else ""
            if ": this copy has " in news:
                self.rebalances.append(now)
            if "offsets were not committed" in news:
                self.events.append(Event("a warning", now - REBALANCE_SECONDS, now + REBALANCE_SECONDS, run))
            if run is None and copy.wanted and now >= copy.again:
                copy.start()
                self.rebalances.append(now)
            elif run is not None and run.exited is None and now - (run.stopped or now) > 4 * STOP_SECONDS:
                assert run.stopped is not None
                self.wrong.append(f"copy {copy.number}: still running {now - run.stopped:.0f} s after its signal")
                run.process.kill()
        runs = self.all_stopped_by
        if runs and all(run.ended is not None for run in runs):
            if all(run.process.returncode == 0 for run in runs) and not self.troubled(now, now):
                self.orderly_stops.append((time.monotonic(), runs))
            self.all_stopped_by = []
        time.sleep(TICK)

    def troubled(self, begin: float, end: float) -> bool:
        """Tell whether a commit or a start may fail at some time between two."""
        return any(e.run is None and e.begin <= end and begin <= e.end + e.after for e in self.events)

    def quiet(self) -> bool:
        """Tell whether nothing is the matter now, so that an orderly stop of all copies leaves nothing uncommitted."""
        now = time.monotonic()
        return self.steady(now) and not self.troubled(now, now)

    def loses_its_place(self, run: CopyRun, why: str, moment: float) -> None:
        """Note that a run ends at a moment without having committed all."""
        self.events.append(Event(why, moment, moment + REBALANCE_SECONDS, run))

    def steady(self, now: float) -> bool:
        """Tell whether no partition has changed hands lately; what a copy has in hand then is printed again."""
        return not any(-STEADY_SECONDS < moment - now <= 0 for moment in self.rebalances)

    def judge_end(self, copy: Copy, run: CopyRun) -> None:
        """Check how a run has ended, and how long its stop took."""
        assert run.ended is not None
        assert run.exited is not None
        status, name = run.process.returncode, f"copy {copy.number}, {run.log.name}"
        troubled = self.troubled(run.began, run.exited)
        hindered_until = copy.reader.hindered_until if copy.reader is not None else 0
        if run.stopped is None and not run.left:
            copy.again = run.ended + 1
        if run.killed:
            return
        if status in (-signal.SIGINT, -signal.SIGTERM, -signal.SIGHUP) and (run.error or run.left):
            status = 1 if run.error else 0  # it was about to end by itself, and Python had no handlers any more
        if status == -signal.SIGSEGV and "login failed" in run.said:
            # https://github.com/confluentinc/librdkafka/issues/4789: where a login is refused amid a rebalance
            self.say(f"{name}: a known crash of librdkafka")
            self.loses_its_place(run, "crash", run.exited)
        elif status not in (0, 1) or "Traceback" in run.said:
            self.wrong.append(f"{name}: ended with {status}: {run.said[-500:]}")
        elif status == 1:
            self.loses_its_place(run, "status 1", run.ended)
            blocked = "standard output is blocked" in run.error and hindered_until > run.exited - 2 * STOP_SECONDS
            refused = "login failed" in run.error and troubled
            # Kafka answers nothing else to a copy that waits for the others to join, or a killed one to be forgotten.
            joining = any(run.exited - e.begin < 2 * REBALANCE_SECONDS and e.begin < run.exited for e in self.events)
            stopped = run.stopped is not None or run.left
            uncommitted = "may be printed again" in run.error and stopped and (troubled or joining)
            starting = not run.greeted and troubled
            if not (blocked or refused or uncommitted or starting):
                self.wrong.append(f"{name}: ended with 1: {run.said[-500:]}")
        elif run.stopped is None and not run.left:
            self.wrong.append(f"{name}: ended by itself with 0: {run.said[-500:]}")
        if run.stopped is not None:
            self.stops.append(run.exited - max(run.stopped, min(hindered_until, run.exited)))
            if self.stops[-1] > STOP_SECONDS:
                self.wrong.append(f"{name}: its stop took {self.stops[-1]:.1f} s: {run.said[-500:]}")

    def wait_for(self, what: str, until: Callable[[], bool]) -> None:
        """Go on until something is true; note where it never is."""
        deadline = time.monotonic() + HEAL_SECONDS
        while not until():
            if time.monotonic() > deadline:
                self.wrong.append(f"not within {HEAL_SECONDS} s: {what}")
                return
            self.tick()

    def go(self) -> None:
        """Do all: the start, the faults, the healing, an orderly stop, and one more start."""
        regular = self.copies[:-1]
        for copy in regular:
            copy.wanted = True
        self.wait_for("the start", lambda: all(copy.run and copy.run.greeted for copy in regular))
        self.feed.start()
        self.began = time.monotonic()
        for fault in self.faults:
            while time.monotonic() < self.began + fault.at:
                self.tick()
            self.begin(fault)
        while time.monotonic() < self.began + self.options.seconds:
            self.tick()
        self.say(f"{time.monotonic() - self.began:7.1f} s  all heals")
        self.heal()
        numbers = self.feed.topic()
        self.wait_for("all is printed", lambda: numbers.keys() <= self.printed)
        self.stop_all()
        for copy in regular:
            copy.wanted, copy.again = True, 0
        self.tick()
        self.wait_for("the last start", lambda: all(copy.run and copy.run.greeted for copy in regular))
        for _ in range(500):
            self.feed.send()
        assert self.feed.flush() == 0
        lost = numbers.keys() - self.printed
        numbers = self.feed.topic()
        self.wait_for("what came after the last start is printed", lambda: numbers.keys() - lost <= self.printed)
        self.stop_all()
        self.judge(numbers)

    def heal(self) -> None:
        """Wait until all nodes are up, and the producer has sent all."""
        self.take_away(self.copies[-1])
        self.administer(lambda: self.cluster.wait_for_nodes(3))
        self.administer(lambda: self.cluster.set_password(PASSWORD))
        self.wait_for("the nodes are back", self.admin.submit(lambda: None).done)
        stopped = self.admin.submit(self.feed.stop)
        self.wait_for("the producer has sent all", stopped.done)
        if stopped.done() and stopped.result() > 0:
            self.wrong.append(f"the producer could not send {stopped.result()} messages")

    def stop_all(self) -> None:
        """Stop the whole group in order."""
        self.wait_for("quiet", self.quiet)
        before = len(self.orderly_stops)
        for copy in self.copies:
            copy.wanted = False
        self.stop_group(signal.SIGTERM, 0)
        self.wait_for("all copies end", lambda: not self.running)
        self.tick()
        if len(self.orderly_stops) == before:
            self.wrong.append("the whole group did not stop in order")

    def end(self) -> None:
        """Leave no process behind."""
        self.admin.shutdown(wait=False, cancel_futures=True)
        for copy in self.copies:
            for run in copy.runs:
                if run.process.poll() is None:
                    run.process.kill()
                    run.process.wait()
        for node in self.cluster.nodes:
            if node.process is not None:
                node.process.send_signal(signal.SIGCONT)

    # - the verdict

    def judge(self, numbers: dict[tuple[int, int], int]) -> None:
        """Compare what was printed with what the topic holds, and print the counts."""
        self.wrong += [text for copy in self.copies for text in copy.wrong]
        positions: dict[int, tuple[int, int]] = {number: position for position, number in numbers.items()}
        for number, (partition, offset) in self.feed.acknowledged.items():
            at = positions.get(number)
            if at is None or at[0] != partition or offset not in (None, at[1]):
                self.wrong.append(f"Kafka lost message {number}, acknowledged at {partition}, {offset}: found at {at}")
        if len(self.feed.acknowledged) < self.options.rate * self.options.seconds / 2:
            self.wrong.append(f"only {len(self.feed.acknowledged)} messages were acknowledged")
        lost = sorted(numbers.keys() - self.printed)
        self.wrong += [f"lost: {len(lost)} messages, the first at {lost[0]}"] if lost else []
        everything = sorted(
            ((line, run) for copy in self.copies for run in copy.runs for line in run.lines),
            key=lambda each: each[0].moment,
        )
        for line, run in everything:
            number = numbers.get((line.partition, line.offset), -1)
            if number < 0 or line.value != digest(message(self.options.seed, number)[1]):
                self.wrong.append(f"{run.log.name}: another value at {line.partition}, {line.offset}")
        self.judge_order()
        repeats = self.judge_repeats(everything)
        kinds = Counter(fault.kind for fault in self.faults)
        self.say("faults: " + ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())))
        self.say(
            f"stops: {len(self.stops)}, the slowest {max(self.stops, default=0):.1f} s; runs: "
            f"{sum(len(copy.runs) for copy in self.copies)}; stops of the whole group: {len(self.orderly_stops)}"
        )
        self.say(
            f"seed {self.options.seed}, {self.options.seconds:.0f} s, {self.options.copies} copies, {self.protocol}, "
            f"{self.reset}: {len(self.feed.acknowledged)} acknowledged, {len(everything)} printed, "
            f"{sum(repeats.values())} repeated ({', '.join(f'{n} {kind}' for kind, n in repeats.most_common())}), "
            f"{len(lost)} lost"
        )

    def judge_order(self) -> None:
        """Check that within a run the offsets of a partition only grow, but after a rebalance."""
        moments = [*self.rebalances, *(moment for event in self.events for moment in (event.begin, event.end))]
        for copy in self.copies:
            for run in copy.runs:
                newest: dict[int, int] = {}
                for line in run.lines:
                    back = line.offset <= newest.get(line.partition, -1)
                    if back and not any(-1 <= line.moment - moment <= DEAD_SECONDS for moment in moments):
                        self.wrong.append(f"{run.log.name}: back to {line.partition}, {line.offset}")
                    newest[line.partition] = line.offset

    def judge_repeats(self, everything: list[tuple[Line, CopyRun]]) -> "Counter[str]":
        """Count what was printed again by what explains it, and note what nothing explains."""
        repeats: Counter[str] = Counter()
        in_hand: Counter[CopyRun | float | None] = Counter()  # by the run that had been stopped, or the rebalance
        before: dict[tuple[int, int], tuple[Line, CopyRun]] = {}
        furthest = 0.0
        for line, run in everything:
            position = (line.partition, line.offset)
            earlier, earlier_run = before.get(position, (line, run))
            before[position] = (line, run)
            if earlier is line:
                continue
            restart = any(earlier_run in runs and moment <= line.moment for moment, runs in self.orderly_stops)
            reasons = [
                event
                for event in self.events
                if (event.explains(earlier_run, earlier.moment) or event.explains(run, line.moment))
                and (event.run is not None or not restart)  # in order, so that all had been committed
            ]
            why = reasons[0] if reasons else None
            if why is not None and {event.kind for event in reasons} == {"kill -9"}:
                furthest = max(furthest, why.begin - earlier.moment)
            lately = [moment for moment in self.rebalances if -1 <= line.moment - moment <= REBALANCE_SECONDS]
            rebalance = max(lately, default=None)
            last = earlier_run.stopped is not None and earlier.moment > earlier_run.stopped - COMMIT_SECONDS
            if why is None and (last or rebalance is not None):
                in_hand[earlier_run if last else rebalance] += 1
            if why is None and (rebalance is None or restart):
                kind = "after an orderly stop of all copies" if restart else "for no reason"
                where = f"({position}, {earlier.moment - self.began:.1f} s, {line.moment - self.began:.1f} s)"
                self.wrong.append(f"printed again {kind}: {where} by {earlier_run.log.name}, {run.log.name}")
            repeats[why.kind if why is not None else "in a rebalance"] += 1
        for cause, count in in_hand.items():
            if count > (IN_HAND if isinstance(cause, CopyRun) else IN_HAND * len(self.copies)):
                name = f"stop, of {cause.log.name}" if isinstance(cause, CopyRun) else "rebalance"
                self.wrong.append(f"printed again in one {name}: {count} messages")
        self.say(f"a kill -9 repeats what was printed in its last {furthest:.2f} s")
        return repeats


@contextlib.contextmanager
def broken_network(directory: Path) -> Iterator[tuple[Cluster, list[Proxy]]]:
    """Start three nodes, each of which advertises a proxy before itself."""
    with contextlib.ExitStack() as stack:
        cluster = Cluster(directory, **{"auto.leader.rebalance.enable": "false"})
        proxies = []
        for node in cluster.nodes:
            proxies.append(stack.enter_context(Proxy(node.ports["SASL_SSL"])))
            node.advertise(SASL_SSL=f"127.0.0.1:{proxies[-1].port}")
        stack.enter_context(cluster)
        cluster.create_topic(TOPIC, PARTITIONS)
        yield cluster, proxies


def main() -> int:
    """Run the checker; return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    option = parser.add_argument
    option("--seconds", type=float, default=600, help="how long there are faults [600]")
    option("--seed", type=int, default=int(time.time()), help="what draws the faults [the time]")
    option("--copies", type=int, default=3, help="how many copies of the script share the topic [3]")
    option("--rate", type=int, default=600, help="how many messages are sent in a second [600]")
    option("--script", type=Path, default=SCRIPT, help="another script to check, such as one with a mistake")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    undo_nohup()
    directory = Path(tempfile.mkdtemp(prefix="kafka-chaos-"))
    wrong = ["it did not come to its end"]
    try:
        print(f"seed {options.seed}: starting three nodes", flush=True)
        with broken_network(directory / "cluster") as (cluster, proxies):
            chaos = Chaos(options, directory, cluster, proxies)
            print(f"{chaos.protocol} protocol, auto.offset.reset = {chaos.reset}", flush=True)
            try:
                chaos.go()
                wrong = chaos.wrong
            finally:
                chaos.end()
    except INTERRUPTED:
        return 1
    finally:
        shutil.rmtree(directory / "cluster", ignore_errors=True)
        if not wrong:
            shutil.rmtree(directory)
    for text, count in Counter(wrong).most_common(20):
        print(f"broken, {count} times: {text}")
    print(f"the files are in {directory}" if wrong else "every promise was kept")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
