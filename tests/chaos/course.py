"""The course of a run: a start, the faults, the healing, an orderly stop, and one more start."""

import argparse
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

from harness import words
from harness.broker import PASSWORD
from harness.cluster import Cluster
from harness.proxy import Proxy
from harness.settings import NEW_PROTOCOL, settings, write_config

from chaos import judge
from chaos.copies import TICK, Copy, CopyRun, Printed
from chaos.faults import (
    HEAL_SECONDS,
    REFRESH_SECONDS,
    SLEEP_SECONDS,
    SOCKET_SECONDS,
    STUCK,
    Injector,
    pipes_of,
    schedule,
)
from chaos.feed import TOPIC, Feed, Position, digest, message

SILENT_SECONDS = 5.0 * judge.PATIENCE  # without a line, in a group that is well: then no more comes


def say(text: str) -> None:
    """Print a line of what happens."""
    print(text, flush=True)


class Course:
    """Leads through a run, and writes its history."""

    def __init__(self, options: argparse.Namespace, directory: Path, cluster: Cluster, proxies: list[Proxy]) -> None:
        """Draw what the seed decides, and make the copies; nothing is started yet."""
        dice = random.Random(f"{options.seed}/settings")
        self.options, self.cluster = options, cluster
        self.feed = Feed(cluster, options.seed, options.rate)
        self.protocol, self.reset = dice.choice(["classic", "consumer"]), dice.choice(["earliest", "latest"])
        merged = settings(cluster, self.keys(proxies))
        config = write_config(directory / "config.ini", merged)
        arguments = [str(options.script.resolve()), "--config", str(config), "--topic", TOPIC]
        pipes, numbers = pipes_of(options.seed, options.copies), range(options.copies + 1)  # the last comes and goes
        self.printed = Printed()
        self.copies = [
            Copy(number, arguments, directory, number in pipes, self.printed, options.seed) for number in numbers
        ]
        self.history = judge.History()
        self.injector = Injector(cluster, proxies, self.copies, self.feed, self.history, directory)
        self.injector.group, self.injector.protocol = merged["group.id"], self.protocol
        drawn = schedule(options.seed, options.seconds, options.copies)
        self.faults = [fault for fault in drawn if fault.kind not in options.without]
        self.began = 0.0

    def keys(self, proxies: list[Proxy]) -> dict[str, str | None]:
        """Return what the copies' INI has beside the usual."""
        return {
            **(NEW_PROTOCOL if self.protocol == "consumer" else {}),
            "bootstrap.servers": ",".join(f"127.0.0.1:{proxy.port}" for proxy in proxies),
            "auto.offset.reset": self.reset,
            "topic.metadata.refresh.interval.ms": f"{REFRESH_SECONDS}000",  # [300000] until a new partition is seen
            "socket.timeout.ms": f"{SOCKET_SECONDS}000",  # the script's 30000
            "max.poll.interval.ms": f"{SLEEP_SECONDS}000",  # [300000] until the group gives up who stands still
            "heartbeat.interval.ms": None if self.protocol == "consumer" else "500",  # until a rebalance is heard of
        }

    # - what goes on

    def tick(self) -> None:
        """Look at everything once: what has been printed, who has ended, who is to be started."""
        now = time.monotonic()
        self.injector.tick(now)
        for copy in self.copies:
            run = copy.run
            ended = copy.look()
            if run is not None:
                self.listen(copy, run, now)
            if ended is not None and ended.record.asked is None:
                copy.again = now + 1
            if copy.run is None and copy.wanted and now >= copy.again:
                self.history.runs.append(copy.start())
        time.sleep(TICK)

    def listen(self, copy: Copy, run: CopyRun, now: float) -> None:
        """Take what a run says, and end it where it does not stop."""
        record, said = run.record, words.found(run.news())
        if "GREETING" in said and record.greeted is None:
            record.greeted = now
        if "ASSIGNED" in said and record.asked is None:
            self.injector.rebalance(max(now - 2, record.began), now)  # it is told at once, or once a second
            self.injector.assigned()
        if "NEW_CLIENT" in said:
            self.injector.renewed(copy, now)
        if "DISTRUSTED" in said:
            self.injector.distrusted()
        if "NOT_COMMITTED" in said:
            trouble = judge.Trouble(judge.WARNING, now - judge.RECOVERY_SECONDS, now, record, judge.RECOVERY_SECONDS)
            self.history.troubles.append(trouble)
        late = now - (record.asked or now)
        if record.exited is None and record.overdue is None and late > 4 * judge.STOP_SECONDS:
            record.overdue = late
            run.process.kill()

    def wait_for(self, what: str, until: Callable[[], bool]) -> None:
        """Go on until something is true; note where it never is."""
        deadline = time.monotonic() + HEAL_SECONDS
        while not until():
            if time.monotonic() > deadline:
                tails = [
                    f"{copy.run.record.name}: {copy.run.said[-200:]!r}" for copy in self.copies if copy.run is not None
                ]
                self.history.failures.append(f"not within {HEAL_SECONDS} s: {what}; {'; '.join(tails)}")
                return
            self.tick()

    # - the course

    def go(self) -> None:
        """Do all."""
        regular = self.copies[:-1]
        self.start(regular)
        self.wait_for("quiet", self.quiet)
        self.feed.start()
        self.began = time.monotonic()
        for fault in self.faults:
            self.tick_until(self.began + fault.at)
            say(str(fault))
            self.injector.begin(fault)
        self.tick_until(self.began + self.options.seconds)
        say(f"{time.monotonic() - self.began:7.1f} s  all heals")
        self.heal()
        sent = self.feed.topic()
        self.wait_for("all is printed", lambda: not self.printed.missing({*sent}) or self.nothing_comes())
        self.stop_all()
        self.start(regular)
        for _ in range(500):
            self.feed.send()
        assert self.feed.flush() == 0
        lost = self.printed.missing({*sent})
        sent = self.feed.topic()
        self.wait_for("what came last is printed", lambda: self.printed.missing({*sent}) <= lost)
        self.stop_all()
        self.close(sent)

    def tick_until(self, moment: float) -> None:
        """Go on until a time."""
        while time.monotonic() < moment:
            self.tick()

    def start(self, copies: list[Copy]) -> None:
        """Start copies, and wait until each has greeted."""
        for copy in copies:
            copy.wanted, copy.again = True, 0
        self.tick()
        self.wait_for("the start", lambda: all(copy.run and copy.run.record.greeted for copy in copies))

    def quiet(self) -> bool:
        """Tell whether nothing is the matter."""
        return judge.quiet(self.history, time.monotonic())

    def nothing_comes(self) -> bool:
        """Tell whether what is missing is lost: the judge will say so."""
        return self.quiet() and time.monotonic() - self.printed.newest > SILENT_SECONDS

    def heal(self) -> None:
        """Wait until all nodes are up, and the producer has sent all."""
        self.injector.take_away(self.copies[-1])
        self.injector.administer("all nodes are back", lambda: self.cluster.wait_for_nodes(3))
        self.injector.administer("the password is back", lambda: self.cluster.set_password(PASSWORD))
        self.wait_for("the nodes are back", self.injector.admin.submit(lambda: None).done)
        stopped = self.injector.admin.submit(self.feed.stop)
        self.wait_for("the producer has sent all", stopped.done)
        if stopped.done() and stopped.result() > 0:
            self.history.failures.append(f"the producer could not send {stopped.result()} messages")

    def stop_all(self) -> None:
        """Stop the whole group in order."""
        self.wait_for("quiet", self.quiet)
        for copy in self.copies:
            copy.wanted = False
        self.injector.stop_group(signal.SIGTERM, 0, must=True)
        self.wait_for("all copies end", lambda: not any(copy.run for copy in self.copies))

    def end(self) -> None:
        """Leave no process behind."""
        self.injector.end()
        for run in [run for copy in self.copies for run in copy.runs]:
            if run.process.poll() is None:
                run.process.kill()
                run.process.wait()

    # - the verdict

    def close(self, sent: dict[Position, int]) -> None:
        """Complete the history."""
        seed = self.options.seed
        self.history.sent = {at: judge.Sent(n, digest(message(seed, n)[1])) for at, n in sent.items()}
        self.history.acknowledged = self.feed.acknowledged
        if len(self.feed.acknowledged) < self.options.rate * self.options.seconds / 2:
            self.history.failures.append(f"only {len(self.feed.acknowledged)} messages were acknowledged")
        if any(fault.kind == STUCK for fault in self.faults) and not self.injector.effects[STUCK]:
            self.history.failures.append("no client that stood still was made anew")

    def report(self, verdict: judge.Verdict) -> None:
        """Print the counts, and how much the verdict is worth."""
        effects, history, options = self.injector.effects, self.history, self.options
        drawn = sorted({fault.kind for fault in self.faults})
        count = {kind: sum(fault.kind == kind for fault in self.faults) for kind in drawn}
        say("faults that took effect: " + ", ".join(f"{effects[kind]} of {count[kind]} {kind}" for kind in drawn))
        stops = [took for run in history.runs if (took := judge.stop_seconds(run)) is not None]
        whole = sum(judge.orderly(history, stop) for stop in history.group_stops)
        say(
            f"stops: {len(stops)}, the slowest {max(stops, default=0):.1f} s; runs: {len(history.runs)}; "
            f"orderly stops of the whole group: {whole}"
        )
        say(f"a kill -9 repeats what was printed in its last {verdict.furthest:.2f} s")
        free = judge.unexplained(history, self.began, self.began + options.seconds)
        say(f"nothing would explain a repeat in {free:.0f} of {options.seconds:.0f} s ({free / options.seconds:.0%})")
        printed = sum(len(run.lines) for run in history.runs)
        reasons = ", ".join(f"{number} {reason}" for reason, number in verdict.repeats.most_common())
        say(
            f"seed {options.seed}, {options.seconds:.0f} s, {options.copies} copies, {self.protocol}, {self.reset}: "
            f"{len(self.feed.acknowledged)} acknowledged, {printed} printed, {sum(verdict.repeats.values())} repeated"
            f" ({reasons})"
        )
