"""What may happen: the kinds of faults, when they come, and how they are carried out.

Rounds of 160 seconds: a calm, in which now and then a burst of faults befalls only copies, their group, their readers
and their disks, so that most of its time nothing explains a repeat; a storm of whatever may fail; a rest in which that
heals. The last storm is at the end of the run. Some bursts are always the same (see `set_piece`), so that short runs,
too, have the faults that most defects need.
"""

import concurrent.futures
import contextlib
import heapq
import itertools
import random
import re
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from confluent_kafka import Consumer, ElectionType
from confluent_kafka.admin import AclBinding, NewPartitions, ResourceType
from harness.broker import PASSWORD, START_SECONDS, Broker, java_command, wait
from harness.certificates import USER, make_certificates
from harness.cluster import Cluster
from harness.environment import user_environment
from harness.proxy import Proxy

from chaos.copies import Copy
from chaos.feed import TOPIC, Feed
from chaos.judge import PATIENCE, RECOVERY_SECONDS, SESSION_SECONDS, GroupStop, History, Trouble, Window

CALM_SECONDS, STORM_SECONDS, REST_SECONDS = 120, 20, 20
BURST_SECONDS, EVERY_SECONDS = 3, 40  # in a calm, so long and so often
YOUNG = 5.0 * PATIENCE  # seconds until a run's handlers of signals are there for sure
HEAL_SECONDS = 120  # for the group to print all once everything works again
SHOWN_SECONDS = 5  # in which a node with another certificate leads partitions
JOIN_SECONDS = 3  # until a member that joins gives up
SOCKET_SECONDS = 10  # socket.timeout.ms, until a connection that has died is noticed
REFRESH_SECONDS = 5  # topic.metadata.refresh.interval.ms, until an added partition is seen
QUOTA_BYTES = 50_000  # a second, of each node: a fraction of what the feed sends
SLEEP_SECONDS = 12  # max.poll.interval.ms: after that the group goes on without a copy


class Kind(NamedTuple):
    """A kind of fault."""

    scope: str  # what it befalls
    storm: int  # how often it is drawn in a storm
    calm: int  # and in a calm
    least: float  # seconds
    most: float
    sent: signal.Signals | None = None  # to the copy, or to the node


REBALANCES = "rebalances of copies that pause"
STILL, SLOW = "reader that stands still, and kill -9", "reader that is slow, and SIGTERM"
SLOW_DISK = "slow disk, and power cut"
STUCK = "client that stands still"
COORDINATOR = "kill -9 of the coordinator at an assignment"
CERTIFICATE = "another certificate of a node"
SLEEPER = "reader that sleeps while a copy joins"
RIGHT = "right to the topic taken away"
QUOTA = "small quota"
KINDS = {
    "kill -9": Kind("copy", 5, 6, 0, 3, signal.SIGKILL),
    "power cut": Kind("file", 5, 8, 0, 3, signal.SIGKILL),
    SLOW_DISK: Kind("disk", 4, 8, 4, 6, signal.SIGKILL),
    "SIGTERM": Kind("copy", 3, 3, 0, 3, signal.SIGTERM),
    "SIGINT": Kind("copy", 3, 3, 0, 3, signal.SIGINT),
    "SIGHUP": Kind("copy", 2, 2, 0, 3, signal.SIGHUP),
    "absence": Kind("copy", 2, 2, 8, 15, signal.SIGTERM),
    "short freeze": Kind("copy", 2, 2, 1, 2, signal.SIGSTOP),
    "long freeze": Kind("copy", 2, 0, 8, 12, signal.SIGSTOP),
    "SIGTERM to all copies": Kind("copies", 0, 0, 0, 2, signal.SIGTERM),
    "SIGINT to all copies": Kind("copies", 0, 0, 0, 2, signal.SIGINT),
    "SIGHUP to all copies": Kind("copies", 0, 0, 0, 2, signal.SIGHUP),
    STUCK: Kind("client", 0, 4, 8, 10),
    REBALANCES: Kind("copies", 0, 0, 5, 8),
    "one more copy": Kind("group", 2, 2, 8, 15),
    "reader that stands still": Kind("reader", 4, 2, 1, 9),
    STILL: Kind("reader", 8, 6, 5, 9, signal.SIGKILL),
    "reader that is slow": Kind("reader", 4, 2, 4, 12),
    SLOW: Kind("reader", 8, 4, 5, 9, signal.SIGTERM),
    "reader that goes": Kind("reader", 2, 2, 0, 2),
    SLEEPER: Kind("reader", 2, 2, SLEEP_SECONDS + 2, SLEEP_SECONDS + 4),
    "kill -9 of a node": Kind("node", 3, 0, 3, 10, signal.SIGKILL),
    "stop of a node": Kind("node", 3, 0, 3, 10, signal.SIGTERM),
    "freeze of a node": Kind("node", 2, 0, 2, 8, signal.SIGSTOP),
    "kill -9 of all nodes": Kind("nodes", 1, 0, 3, 8, signal.SIGKILL),
    COORDINATOR: Kind("coordinator", 4, 0, 6, 9, signal.SIGKILL),
    CERTIFICATE: Kind("node", 2, 0, 10, 14),
    "cut connections": Kind("node", 3, 0, 0, 0),
    "dead connections": Kind("node", 2, 0, 0, 0),
    "slow link": Kind("node", 3, 0, 4, 10),
    "leaders moved back": Kind("topic", 2, 0, 0, 0),
    "partition added": Kind("topic", 1, 1, 0, 0),
    "wrong password": Kind("user", 1, 0, 4, 10),
    RIGHT: Kind("user", 2, 0, 2, 6),
    QUOTA: Kind("user", 1, 0, 6, 10),
}
GROUP_STOPS = [name for name, kind in KINDS.items() if kind.scope == "copies" and kind.sent]
OF_A_COPY = ("copy", "file", "disk", "client", "reader")  # scopes of faults whose target is a copy
NETWORK = ("node", "nodes", "coordinator", "user")  # scopes of faults under which a commit or a start may fail


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
        scope = "copy" if scope in OF_A_COPY else scope
        whose = f" ({scope} {self.target})" if scope in ("copy", "node") else ""
        return f"{self.at:7.1f} s  {self.kind}{whose}, {self.seconds:.1f} s"


def pipes_of(seed: int, copies: int) -> list[int]:
    """Return which copies write to a pipe: all but one."""
    return [copy for copy in range(copies) if copy != seed % copies] or [0]


class Moment(NamedTuple):
    """A time of the schedule."""

    storm: bool
    burst: int | None  # which one of its calm, counted from 0; None between two
    left: float  # seconds until the storm ends


def moment_of(at: float, seconds: float) -> Moment:
    """Return what a time of a run is for."""
    storm = min(STORM_SECONDS, seconds / 6)
    calm = min(CALM_SECONDS, seconds - storm)
    left = (seconds - at) % (CALM_SECONDS + STORM_SECONDS + REST_SECONDS)  # until the end of the next storm
    since = storm + calm - left  # the begin of the calm
    number, into = divmod(since - 1, EVERY_SECONDS)
    in_burst = left > storm and number >= 0 and into < BURST_SECONDS and left - storm > 2 * BURST_SECONDS
    return Moment(left <= storm, int(number) if in_burst else None, left)


def slots_of(name: str, target: int, copies: int) -> list[tuple[str, int]]:
    """Return what a fault keeps busy; no other may befall that meanwhile."""
    scope, sent = KINDS[name].scope, KINDS[name].sent
    if scope == "copies":
        return [(each, copy) for each in ("copy", "reader") for copy in range(copies + 1)]
    if name == "one more copy":
        return [("copy", copies)]
    if name == COORDINATOR:
        return [("coordinator", 0), ("copy", copies)]
    if name == SLEEPER:
        return [("reader", target), ("copy", target), ("copy", copies)]
    if scope in ("file", "disk", "client"):
        return [("copy", target)]
    return [(scope, target), *([("copy", target)] if scope == "reader" and sent else [])]


def set_piece(burst: int | None, at: float, dice: random.Random) -> list[tuple[str, float]]:
    """Return the faults of a burst that is always the same, and how much later each comes; else nothing."""
    if burst == 0 and at < EVERY_SECONDS:
        return [(SLOW_DISK, 0), (STILL, 0), (SLOW, 0)]
    if burst == 1:
        return [(REBALANCES, 0), (STUCK, 12)]
    return [(dice.choice(GROUP_STOPS), 0)] if burst == 2 else []


def schedule(seed: int, seconds: float, copies: int) -> list[Fault]:
    """Draw the faults, never two at a time of a scope for the same target."""
    dice, pipes = random.Random(seed), pipes_of(seed, copies)
    files = [copy for copy in range(copies) if copy not in pipes]
    of_scope = {"copy": range(copies), "client": range(copies), "file": files, "disk": files, "reader": pipes}
    faults: list[Fault] = []
    busy: dict[tuple[str, int], float] = {}
    done = None  # the burst that has had its set piece
    at = 1.0
    while (at := at + dice.uniform(0.1, 1)) < seconds - 3:
        moment = moment_of(at, seconds)
        piece = set_piece(moment.burst, at, dice)
        if not (moment.storm or moment.burst is not None) or (piece and done == moment.burst):
            continue
        done = moment.burst
        weights = [kind.storm if moment.storm else kind.calm for kind in KINDS.values()]
        for name, delay in piece or [(dice.choices([*KINDS], weights)[0], 0)]:
            kind, begin = KINDS[name], at + delay
            targets = of_scope.get(kind.scope, range(3) if kind.scope == "node" else [0])
            free = [
                target
                for target in targets
                if all(busy.get(slot, 0) <= begin for slot in slots_of(name, target, copies))
            ]
            if not free or begin > seconds - 3 or (moment.storm and kind.least > moment.left):
                continue
            target, lasts = dice.choice(free), dice.uniform(kind.least, kind.most)
            if moment.storm:
                lasts = min(lasts, moment.left)
            for slot in slots_of(name, target, copies):
                busy[slot] = begin + lasts + 3
            faults.append(Fault(begin, name, target, lasts))
    return sorted(faults, key=lambda fault: fault.at)


class Injector:
    """Carries the faults out, tells the history what may come of them, and counts those that took effect."""

    def __init__(
        self, cluster: Cluster, proxies: list[Proxy], copies: list[Copy], feed: Feed, history: History, directory: Path
    ) -> None:
        """Take what it may break; the last copy comes and goes, and `directory` has the signs of wrapper.py."""
        self.cluster, self.proxies, self.copies, self.feed, self.history = cluster, proxies, copies, feed, history
        self.pause, self.hold = directory / "pause", directory / "hold"
        self.coordinator = 0  # the node that led the group when it was last asked for
        self.foreign = cluster.certificates.parent / "foreign"  # certificates of which the copies know nothing
        make_certificates(self.foreign, host="127.0.0.1")
        self.shown = False  # a node has such a one, and no copy has said so yet
        self.group = self.protocol = ""  # of the members that join and leave
        self.effects: Counter[str] = Counter()
        self.pending: list[tuple[float, int, Callable[[], None]]] = []  # what a fault does at its end
        self.admin = concurrent.futures.ThreadPoolExecutor(1)  # one after the other, each until it is done
        self._order = itertools.count()

    def later(self, moment: float, action: Callable[[], None]) -> None:
        """Do something at a time."""
        heapq.heappush(self.pending, (moment, next(self._order), action))

    def tick(self, now: float) -> None:
        """Do what is due."""
        while self.pending and self.pending[0][0] <= now:
            heapq.heappop(self.pending)[2]()

    def administer(self, what: str, action: Callable[[], object], counts: bool = False) -> None:
        """Ask the cluster for something until it does it; it is a failure where it never does."""

        def insist() -> None:
            deadline, reason = time.monotonic() + HEAL_SECONDS, ""
            while time.monotonic() < deadline:
                try:
                    action()
                except Exception as error:  # whatever the client raises while nodes are away
                    reason = repr(error)
                    time.sleep(0.5)
                else:
                    self.effects[what] += counts
                    return
            self.history.failures.append(f"not within {HEAL_SECONDS} s: {what}: {reason}")

        self.admin.submit(insist)

    def rebalance(self, begin: float, end: float) -> None:
        """Note that partitions may change hands."""
        self.history.rebalances.append(Window(begin, end))

    # - each fault

    def begin(self, fault: Fault) -> None:
        """Let a fault begin, and see to its end."""
        now, kind = time.monotonic(), KINDS[fault.kind]
        end = now + fault.seconds
        if kind.scope in NETWORK:
            lasts = SOCKET_SECONDS if fault.kind == "dead connections" else fault.seconds
            self.history.troubles.append(Trouble(fault.kind, now, now + lasts, after=RECOVERY_SECONDS))
        if kind.sent == signal.SIGSTOP and kind.scope == "copy":
            self.freeze(self.copies[fault.target], fault, end)
        elif kind.scope in ("copy", "file"):
            assert kind.sent is not None
            self.stop(self.copies[fault.target], kind.sent, end, fault.kind)
        elif kind.scope == "disk":
            self.slow_disk(self.copies[fault.target], end)
        elif kind.scope == "client":
            self.let_stand(self.copies[fault.target], end)
        elif kind.scope == "reader":
            self.to_reader(self.copies[fault.target], fault.kind, end)
        elif kind.scope in ("node", "nodes"):
            hit = [
                self.to_node(each, fault.kind, end) for each in (range(3) if kind.scope == "nodes" else [fault.target])
            ]
            self.effects[fault.kind] += any(hit) and fault.kind != CERTIFICATE
        elif fault.kind == COORDINATOR:
            self.lie_in_wait(end)
        elif fault.kind == "one more copy":
            self.add_copy(end, fault.kind)
        elif kind.scope == "copies" and kind.sent:
            self.stop_group(kind.sent, end, fault.kind)
        elif fault.kind == REBALANCES:
            threading.Thread(target=self.unsettle, args=[end], daemon=True).start()
        else:
            self.to_cluster(fault.kind, end)

    def to_cluster(self, kind: str, end: float) -> None:
        """Have the cluster itself changed."""
        if kind == "leaders moved back":
            self.administer(kind, self.move_leaders, counts=True)
        elif kind == "partition added":
            self.administer(kind, self.add_partition, counts=True)
        elif kind == "wrong password":
            self.administer(kind, lambda: self.cluster.set_password("wrong"), counts=True)
            self.later(end, self.give_back)
        elif kind == QUOTA:
            self.administer(kind, lambda: self.set_quota(f"--add-config=consumer_byte_rate={QUOTA_BYTES}"), counts=True)
            self.later(end, lambda: self.give_back(self.remove_quota))
        else:
            assert kind == RIGHT
            self.administer(kind, lambda: self.cluster.withdraw(self.right), counts=True)
            self.later(end, self.give_back)

    @property
    def right(self) -> AclBinding:
        """What the copies need to read the topic."""
        return self.cluster.acl(ResourceType.TOPIC, "tron.")

    def set_quota(self, change: str) -> None:
        """Change the user's quota by Kafka's own command: the client has no call for that."""
        address = f"--bootstrap-server={self.feed.address}"
        user = ["--alter", change, "--entity-type=users", f"--entity-name={USER}"]
        command = java_command("kafka.admin.ConfigCommand", address, *user)
        subprocess.run(command, check=True, capture_output=True, timeout=60, env=user_environment())

    def remove_quota(self) -> None:
        """Let the user read as fast as it can."""
        self.set_quota("--delete-config=consumer_byte_rate")

    def give_back(self, first: Callable[[], None] = lambda: None) -> None:
        """Do something first, and give the user its password and its right."""
        trouble = Trouble("a right that is being given back", time.monotonic(), float("inf"), after=RECOVERY_SECONDS)
        self.history.troubles.append(trouble)

        def give() -> None:
            first()
            self.cluster.set_password(PASSWORD)
            wait(self.cluster.admin.create_acls([self.right]))
            trouble.end = time.monotonic()

        self.administer("password and right given back", give)

    def stop(self, copy: Copy, how: signal.Signals, again: float, kind: str = "") -> None:
        """Send a copy a signal, once it is there for sure, and have it started again at a time."""
        run, now = copy.run, time.monotonic()
        if run is None or run.record.asked is not None:
            copy.again = max(copy.again, again)
        elif now - run.record.began < YOUNG:
            self.later(run.record.began + YOUNG, lambda: self.stop(copy, how, again, kind))
        elif run.process.poll() is None:
            copy.again = again
            cut = kind in ("power cut", SLOW_DISK)
            run.record.how = "power cut" if cut else "kill -9" if how == signal.SIGKILL else how.name
            run.record.stopped = now
            run.process.send_signal(how)
            self.effects[kind] += 1

    def stop_group(self, how: signal.Signals, again: float, kind: str = "", must: bool = False) -> None:
        """Send all copies a signal, where all are there for sure."""
        now, runs = time.monotonic(), [copy.run for copy in self.copies if copy.run is not None]
        if not all(now - run.record.began > YOUNG and run.record.asked is None for run in runs):
            if must:
                self.history.failures.append("not all copies were there to be stopped")
            return
        for copy in self.copies:
            self.stop(copy, how, again)
        self.history.group_stops.append(GroupStop(now, [run.record for run in runs], must))
        self.effects[kind] += 1

    def add_copy(self, end: float, kind: str = "") -> None:
        """Let one more copy join until a time."""
        copy = self.copies[-1]
        if not copy.wanted:
            copy.wanted = True
            self.effects[kind] += 1
            self.later(end, lambda: self.take_away(copy))

    def take_away(self, copy: Copy) -> None:
        """Stop a copy for good."""
        copy.wanted = False
        self.stop(copy, signal.SIGTERM, 0)

    def freeze(self, copy: Copy, fault: Fault, end: float) -> None:
        """Let a copy stand still; where that is for long, the group goes on without it."""
        run, now = copy.run, time.monotonic()
        if run is None or run.record.asked is not None:
            return
        run.process.send_signal(signal.SIGSTOP)
        self.later(end, lambda: run.process.send_signal(signal.SIGCONT))
        self.history.hindrances.append(Window(now, end))
        self.effects[fault.kind] += 1
        if fault.kind == "long freeze":
            self.history.troubles.append(Trouble(fault.kind, now, end, run.record, after=SESSION_SECONDS))
            self.rebalance(now, end)

    def slow_disk(self, copy: Copy, end: float) -> None:
        """Let each sync of a copy's file wait, and cut its power meanwhile."""
        now, run = time.monotonic(), copy.run
        copy.slow.touch()
        self.history.hindrances.append(Window(now, end))
        if run is not None:
            self.history.troubles.append(Trouble("slow disk", now, end, run.record))
        self.later(end - 1, lambda: self.stop(copy, signal.SIGKILL, end, SLOW_DISK))
        self.later(end, copy.slow.unlink)

    def let_stand(self, copy: Copy, end: float) -> None:
        """Let the client of a copy give no message any more, until the script makes a new one."""
        copy.stuck.touch()
        self.later(end, copy.stuck.unlink)

    def renewed(self, copy: Copy, now: float) -> None:
        """Take it that a copy has made a new client: the old one has not left the group, which waits for it."""
        self.rebalance(now - 2, now + SESSION_SECONDS)
        self.effects[STUCK] += copy.stuck.exists()

    def unsettle(self, end: float) -> None:
        """Join the group and leave it, again and again, while the copies pause with a message in hand; read nothing."""
        keys = {"bootstrap.servers": self.feed.address, "group.id": self.group, "group.protocol": self.protocol}
        self.pause.touch()
        joined = False
        while time.monotonic() < end:
            begin = time.monotonic()
            member = Consumer({**keys, "enable.auto.commit": False, "log_level": 0})
            member.subscribe([TOPIC])
            while not member.assignment() and time.monotonic() - begin < JOIN_SECONDS:
                member.poll(0.1)
            joined = joined or bool(member.assignment())
            member.close()
            self.rebalance(begin, time.monotonic())
        self.pause.unlink()
        self.effects[REBALANCES] += joined

    def to_reader(self, copy: Copy, kind: str, end: float) -> None:
        """Let the reader of a pipe stand still, be slow, or go."""
        reader, run, now = copy.reader, copy.run, time.monotonic()
        assert reader is not None
        there = run is not None and run.record.asked is None
        if kind == "reader that goes":
            copy.again = end
            if run is not None and there and not reader.still:
                reader.leave(run)
                self.effects[kind] += 1
            return
        name, how = "slow" if kind.startswith("reader that is slow") else "still", KINDS[kind].sent
        setattr(reader, name, True)
        reader.hindered_until = end
        self.history.hindrances.append(Window(now, end))
        self.later(end, lambda: setattr(reader, name, False))
        if run is not None:  # what was read of a batch is not stored until all of it is written
            self.history.troubles.append(Trouble(kind.partition(",")[0], now, end, run.record))
        if how:  # once its pipe is full, and what is stored has been committed
            self.later(end - 1, lambda: self.stop(copy, how, end, kind))
        elif there:
            self.effects[kind] += 1
        if kind == SLEEPER:
            self.rebalance(now + SLEEP_SECONDS, end)
            self.later(now + 4, lambda: self.add_copy(end))

    def to_node(self, number: int, kind: str, end: float) -> bool:
        """Stop, kill or freeze a node, or break its connections; tell whether it was there."""
        node, proxy, how = self.cluster.nodes[number], self.proxies[number], KINDS[kind].sent
        there = node.process is not None and node.process.poll() is None
        if kind == "cut connections":
            proxy.cut()
        elif kind == "dead connections":
            proxy.let_die()
        elif kind == "slow link":
            proxy.seconds = 1
            self.later(end, lambda: setattr(proxy, "seconds", 0))
        elif kind == CERTIFICATE:
            self.show_foreign(node, end)
        elif how and there:
            assert node.process is not None
            node.process.send_signal(how)
            self.later(end, lambda: self.revive(node, how == signal.SIGSTOP))
        return there

    def lie_in_wait(self, end: float) -> None:
        """Let a copy join, and whoever gets an assignment wait with it, so that `assigned` can kill the coordinator."""

        def find() -> None:
            self.coordinator = self.cluster.nodes.index(self.cluster.leader("__consumer_offsets"))
            if time.monotonic() < end - 1:
                self.hold.touch()

        self.administer("the coordinator is found", find)
        self.add_copy(end)
        self.later(end, lambda: self.hold.unlink(missing_ok=True))

    def assigned(self) -> None:
        """Take it that a copy has an assignment: it has yet to ask the coordinator where to begin."""
        if self.hold.exists():
            self.effects[COORDINATOR] += self.to_node(self.coordinator, COORDINATOR, time.monotonic() + 5)
            self.hold.unlink()

    def show(self, node: Broker, directory: Path) -> None:
        """Restart a node with a certificate from a directory."""
        path, key = node.directory / "server.properties", "ssl.keystore.location="
        path.write_text(re.sub(rf"(?m)^{key}.*", f"{key}{directory / 'server.pem'}", path.read_text()))
        node.stop(signal.SIGKILL)
        self.launch(node)

    def show_foreign(self, node: Broker, end: float) -> None:
        """Restart a node with a certificate that no copy trusts, let it lead what it is to lead, and mend it."""
        trouble = Trouble(CERTIFICATE, time.monotonic(), float("inf"), after=RECOVERY_SECONDS)
        self.history.troubles.append(trouble)

        def mend() -> None:
            self.show(node, self.cluster.certificates)
            trouble.end = time.monotonic()

        def lead() -> None:
            client = node.new_client()
            while time.monotonic() < trouble.begin + START_SECONDS and not node.answers(client):
                pass
            with contextlib.suppress(Exception):  # whatever the client raises while other nodes are away
                self.cluster.wait_for_nodes(3)
                self.move_leaders()  # else the copies would not need it
            self.later(max(end, time.monotonic() + SHOWN_SECONDS), mend)

        self.show(node, self.foreign)
        self.shown = True
        threading.Thread(target=lead, daemon=True).start()

    def distrusted(self) -> None:
        """Take it that a copy has refused a certificate."""
        self.effects[CERTIFICATE] += self.shown
        self.shown = False

    def revive(self, node: Broker, frozen: bool) -> None:
        """Let a frozen node go on, or start one that is down, or nearly so."""
        assert node.process is not None
        if frozen:
            node.process.send_signal(signal.SIGCONT)
        if not frozen or node.process.poll() is not None:
            node.stop(signal.SIGKILL)
            self.launch(node)

    def launch(self, node: Broker) -> None:
        """Start a node that is down."""
        node.launch()
        threading.Thread(target=self.await_node, args=[node], daemon=True).start()

    def await_node(self, node: Broker) -> None:
        """Count a node's start, which takes long on a busy machine, as trouble until it answers or is killed again."""
        process, client, now = node.process, node.new_client(), time.monotonic()
        self.history.troubles.append(start := Trouble("start of a node", now, float("inf"), after=RECOVERY_SECONDS))
        while node.process is process and not node.answers(client):
            pass
        start.end = time.monotonic()

    def move_leaders(self) -> None:
        """Give each partition back to the node that is to lead it, those of the offsets' topic included."""
        begin = time.monotonic()
        self.cluster.admin.elect_leaders(ElectionType.PREFERRED).result(20)
        self.history.troubles.append(Trouble("leaders moved back", begin, time.monotonic(), after=RECOVERY_SECONDS))

    def add_partition(self) -> None:
        """Add a partition, and send to it once it is there."""
        begin, count = time.monotonic(), self.feed.partitions + 1
        with contextlib.suppress(Exception):  # an earlier attempt may have succeeded: what counts comes next
            wait(self.cluster.admin.create_partitions([NewPartitions(TOPIC, count)]))
        if len(self.cluster.admin.list_topics(TOPIC, timeout=10).topics[TOPIC].partitions) < count:
            raise RuntimeError("it is not there yet")
        self.feed.partitions = count
        self.rebalance(begin, time.monotonic() + REFRESH_SECONDS)

    def end(self) -> None:
        """Let nothing stand still, and leave nothing that is still to be done."""
        self.admin.shutdown(wait=False, cancel_futures=True)
        for node in self.cluster.nodes:
            if node.process is not None:
                node.process.send_signal(signal.SIGCONT)
