"""The judge: the history of a run in, broken promises out. It knows no file, no clock and no Kafka.

Moments are seconds on any one clock. What explains a repeat is as narrow as the script's promises are.
"""

import signal
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import NamedTuple

Digest = bytes | None
Position = tuple[int, int]  # partition and offset

PATIENCE = 1.0  # for a machine with other things to do, all the following grow with it
LOOK_SECONDS = 0.5 * PATIENCE  # what a look at a file is late
COMMIT_SECONDS = 2.5 * PATIENCE  # auto.commit.interval.ms, a commit, and a look
SYNC_SECONDS = 1.5 * PATIENCE  # more for a file: its offsets are stored once a second, after a sync
CUT_SECONDS = 2 * PATIENCE  # more after a power cut, which takes lines with it
STOP_SECONDS = 7.5 * PATIENCE  # five, one for the words
SETTLE_SECONDS = 5 * PATIENCE  # until all copies have what a rebalance gives them
SESSION_SECONDS = 6 * PATIENCE  # session.timeout.ms: who is killed keeps its partitions for so long
RECOVERY_SECONDS = 20 * PATIENCE  # a new leader and coordinator, and librdkafka's rest before it connects again
JOINING_SECONDS = 40 * PATIENCE  # in which a group may wait for a member that is gone
IDLE_SECONDS = 20 * PATIENCE  # without a line in a calm; a client that stands still is made anew before

IN_HAND = 100  # messages that a copy may have in hand when a partition is taken from it: the script's batch

KILLED = ("kill -9", "power cut")
WARNING = "a warning"  # a trouble of which only the run itself tells


@dataclass(frozen=True, slots=True)
class Line:
    """A line that a run has printed, when it was seen, and where in the file it ends."""

    partition: int
    offset: int
    value: Digest
    moment: float
    end: int = 0

    @property
    def position(self) -> Position:
        """Which message it is."""
        return self.partition, self.offset


@dataclass(eq=False)
class Run:
    """One process of the script, and what became of it."""

    name: str
    began: float
    copy: int = 0
    piped: bool = False
    greeted: float | None = None  # when its start had succeeded
    stopped: float | None = None  # when it was asked to stop
    how: str = ""  # and by what, such as SIGTERM
    left: float | None = None  # when the program that reads its pipe went
    exited: float | None = None
    status: int | None = None
    said: frozenset[str] = frozenset()  # names of words on standard error
    errors: frozenset[str] = frozenset()  # those in the lines that say why it ends
    tail: str = ""  # the end of standard error, for whoever reads a finding
    lines: list[Line] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)  # what is no line of a message
    joined: list[str] = field(default_factory=list)  # what was added to the half line of another run
    half: str = ""  # what it has left without a line end
    hindered_until: float = 0  # by its reader
    overdue: float | None = None  # seconds after it was to end, when it was given up

    @property
    def killed(self) -> bool:
        """Whether it could do nothing about its end."""
        return self.how in KILLED

    @property
    def crashed(self) -> bool:
        """Whether librdkafka has crashed as it does where a login is refused amid a rebalance.

        https://github.com/confluentinc/librdkafka/issues/4789
        """
        return self.status == -signal.SIGSEGV and "CRASHING" in self.said

    @property
    def outcome(self) -> int | None:
        """Its exit status; that of an end by itself where a signal has come after its last word."""
        by_signal = self.status in (-signal.SIGINT, -signal.SIGTERM, -signal.SIGHUP)
        if by_signal and ("ERROR" in self.said or self.left is not None):
            return 1 if "ERROR" in self.said else 0
        return self.status

    @property
    def in_order(self) -> bool:
        """Whether it has committed what it printed, and told the group."""
        return self.outcome == 0 and not self.killed and self.left is None

    @property
    def asked(self) -> float | None:
        """When it was told to end, in whatever way; None where it was not."""
        return self.stopped if self.left is None else self.left


@dataclass
class Trouble:
    """A time in which commits and starts may fail, for one run or for all."""

    what: str
    begin: float
    end: float
    run: Run | None = None
    after: float = 0  # seconds in which it still has consequences

    def covers(self, begin: float, end: float) -> bool:
        """Tell whether it has consequences at some time between two."""
        return self.begin <= end and begin <= self.end + self.after


class Window(NamedTuple):
    """A time from one moment to another."""

    begin: float
    end: float


@dataclass
class GroupStop:
    """A stop of all copies at once; where it `must`, nothing else was the matter."""

    moment: float
    runs: list[Run]
    must: bool = False


class Sent(NamedTuple):
    """A message of the topic."""

    number: int
    value: Digest  # as a reader gets it


@dataclass
class History:
    """All that has happened."""

    runs: list[Run] = field(default_factory=list)
    troubles: list[Trouble] = field(default_factory=list)
    rebalances: list[Window] = field(default_factory=list)  # beside those of which the runs tell
    hindrances: list[Window] = field(default_factory=list)  # of readers, which let a rebalance last longer
    group_stops: list[GroupStop] = field(default_factory=list)
    sent: Mapping[Position, Sent] = field(default_factory=dict)  # what the topic holds
    acknowledged: Mapping[int, tuple[int, int | None]] = field(default_factory=dict)  # number -> partition, offset
    failures: list[str] = field(default_factory=list)  # what never came about


class Verdict(NamedTuple):
    """What the judge has found."""

    findings: list[str]
    repeats: Counter[str]  # by what explains them
    furthest: float  # seconds before a kill, of the first message that was printed again


def judge(history: History) -> Verdict:
    """Return every broken promise as a sentence, and what explains the rest."""
    findings = [
        *history.failures,
        *judge_kafka(history),
        *judge_values(history),
        *judge_ends(history),
        *judge_order(history),
        *judge_silence(history),
        *judge_group_stops(history),
    ]
    repeated, repeats, furthest = judge_repeats(history)
    return Verdict([*findings, *repeated], repeats, furthest)


# -- each message


def judge_kafka(history: History) -> Iterator[str]:
    """Find what Kafka itself has lost: then no verdict about the script would hold."""
    positions = {sent.number: position for position, sent in history.sent.items()}
    for number, (partition, offset) in history.acknowledged.items():
        at = positions.get(number)
        if at is None or at[0] != partition or offset not in (None, at[1]):
            yield f"Kafka lost message {number}, acknowledged at {partition}, {offset}: found at {at}"


def judge_values(history: History) -> Iterator[str]:
    """Find messages that were lost, changed or made up, and lines that are none."""
    printed = {line.position for run in history.runs for line in run.lines}
    if lost := sorted(history.sent.keys() - printed):
        yield f"lost: {len(lost)} messages, the first at {lost[0]}"
    for run in history.runs:
        for line in run.lines:
            sent = history.sent.get(line.position)
            if sent is None:
                yield f"{run.name}: printed {line.position}, which was never sent"
            elif sent.value != line.value:
                yield f"{run.name}: another value at {line.position}"
        yield from (f"{run.name}: a broken line: {text}" for text in run.broken)
        yield from (f"{run.name}: a line was added to the half of another: {text}" for text in run.joined)
        if run.half and not (run.killed or run.left is not None or run.crashed or run.outcome == 1):
            yield f"{run.name}: ended with half a line: {run.half}"


def judge_order(history: History) -> Iterator[str]:
    """Find where a run goes back in a partition, though nothing has moved partitions."""
    windows = [*unsettled(history), *(troubled_window(trouble) for trouble in history.troubles)]
    for run in history.runs:
        newest: dict[int, int] = {}
        for line in run.lines:
            back = line.offset <= newest.get(line.partition, -1)
            if back and not any(each.begin <= line.moment <= each.end for each in windows):
                yield f"{run.name}: back to {line.position}"
            newest[line.partition] = line.offset


def judge_silence(history: History) -> Iterator[str]:
    """Find runs that gave nothing for long in a calm, while others did, and there was a partition for each copy."""
    if len({run.copy for run in history.runs}) > len({partition for partition, _ in history.sent}):
        return
    hindrances = [Trouble("", *window) for window in history.hindrances]
    hindered = replace(history, troubles=[*history.troubles, *hindrances])
    lines = sorted((line.moment, run.name) for run in history.runs for line in run.lines)
    for run in history.runs:
        last = min((end for end in (run.asked, run.exited) if end is not None), default=float("inf"))
        for begin, end in pairwise([run.greeted or run.began, *(line.moment for line in run.lines), last]):
            if end - begin <= IDLE_SECONDS:
                continue
            others = [moment for moment, name in lines if begin < moment < end and name != run.name]
            if others and (idle := unexplained(hindered, others[0], others[-1])) > IDLE_SECONDS:
                yield f"{run.name}: no line in {idle:.0f} calm seconds from {begin:.1f} s on"


# -- each run's end


def judge_ends(history: History) -> Iterator[str]:
    """Find ends that are not as promised: their status, and how long they took."""
    for run in history.runs:
        if run.killed and "TRACEBACK" in run.said:
            yield f"{run.name}: a traceback before it was killed: {run.tail}"
        if run.overdue is not None:
            yield f"{run.name}: still running {run.overdue:.0f} s after it was to end"
        elif run.exited is not None and not run.killed:
            yield from judge_end(history, run, run.exited)


def judge_end(history: History, run: Run, exited: float) -> Iterator[str]:
    """Find what is wrong with the end of a run that has ended by itself or by a signal that it may handle."""
    if run.crashed:
        return
    if run.outcome not in (0, 1) or "TRACEBACK" in run.said:
        yield f"{run.name}: ended with {run.status}: {run.tail}"
    elif run.outcome == 1 and not excused(history, run, exited):
        yield f"{run.name}: ended with 1: {run.tail}"
    elif run.outcome == 0 and run.asked is None:
        yield f"{run.name}: ended by itself with 0: {run.tail}"
    if (took := stop_seconds(run)) is not None and took > STOP_SECONDS:
        yield f"{run.name}: its stop took {took:.1f} s: {run.tail}"


def excused(history: History, run: Run, exited: float) -> bool:
    """Tell whether a run may have ended with status 1."""
    in_trouble = troubled(history, max(run.began, exited - RECOVERY_SECONDS), exited)
    hindered = run.hindered_until > exited - 2 * STOP_SECONDS
    if "BLOCKED" in run.errors:
        return hindered and run.asked is not None
    if "REFUSED" in run.errors or run.greeted is None:
        return in_trouble
    # Kafka answers nothing else to a copy that waits for the others to join, or a killed one to be forgotten.
    gone = [one.exited for one in history.runs if one.exited is not None and not one.in_order and one is not run]
    gone += [trouble.begin for trouble in history.troubles if trouble.what != WARNING]  # no run excuses itself
    joining = any(exited - JOINING_SECONDS < moment < exited for moment in gone)
    return "PRINTED_AGAIN" in run.errors and run.asked is not None and (in_trouble or joining or hindered)


def stop_seconds(run: Run) -> float | None:
    """Return how long a run took to stop, from when its reader let it; None where it was not asked, or was killed."""
    if run.stopped is None or run.exited is None or run.killed:
        return None
    return run.exited - max(run.stopped, min(run.hindered_until, run.exited))


# -- the group


def troubled(history: History, begin: float, end: float) -> bool:
    """Tell whether a commit or a start may fail, for any copy, at some time between two."""
    return any(trouble.run is None and trouble.covers(begin, end) for trouble in history.troubles)


def unsettled(history: History) -> list[Window]:
    """Return when partitions may change hands: what a copy has in hand then is printed again."""
    windows = [Window(begin - LOOK_SECONDS, end + SETTLE_SECONDS) for begin, end in history.rebalances]
    for run in history.runs:
        if run.greeted is not None:
            windows.append(Window(run.greeted - LOOK_SECONDS, run.greeted + SETTLE_SECONDS))
        if run.exited is not None and run.greeted is not None:
            begin = run.exited if run.asked is None else min(run.asked, run.exited)
            late = 0.0 if run.in_order else SESSION_SECONDS
            windows.append(Window(begin - LOOK_SECONDS, run.exited + late + SETTLE_SECONDS))
    return [prolonged(window, history.hindrances) for window in windows]


def prolonged(window: Window, hindrances: Sequence[Window]) -> Window:
    """Return a window with the time in which a copy that stands still keeps the others waiting."""
    begin, end = window
    for other in sorted(hindrances):
        if other.begin <= end and begin <= other.end:
            end = max(end, other.end + SETTLE_SECONDS)
    return Window(begin, end)


def settled(history: History, moment: float) -> bool:
    """Tell whether no partition may be changing hands."""
    return not any(window.begin <= moment <= window.end for window in unsettled(history))


def quiet(history: History, moment: float) -> bool:
    """Tell whether nothing is the matter, so that a stop of all copies leaves nothing uncommitted."""
    return settled(history, moment) and not troubled(history, moment, moment)


def orderly(history: History, stop: GroupStop) -> bool:
    """Tell whether all that was printed before a stop of all copies must have been committed."""
    return not disorder(history, stop)


def disorder(history: History, stop: GroupStop) -> str:
    """Return why a stop of all copies may leave something uncommitted, or nothing."""
    for run in stop.runs:
        if run.exited is None or not run.in_order:
            return f"{run.name} ended with {run.status}"
        if run.greeted is None or stop.moment - run.greeted < SETTLE_SECONDS:
            return f"{run.name} had just started"
    last = max((run.exited or 0 for run in stop.runs), default=stop.moment)
    if troubled(history, stop.moment, last):
        return "a commit might fail"
    before = [run for run in history.runs if run not in stop.runs and run.began < stop.moment]
    rebalances = [window for window in history.rebalances if window.begin <= stop.moment]
    earlier = History(before, rebalances=rebalances, hindrances=history.hindrances)
    return "" if settled(earlier, stop.moment) else "partitions changed hands"


def judge_group_stops(history: History) -> Iterator[str]:
    """Find stops of all copies that should have been in order, and were not."""
    for stop in history.group_stops:
        if stop.must and (why := disorder(history, stop)):
            yield f"the whole group did not stop in order: {why}"


# -- what is printed again


def judge_repeats(history: History) -> tuple[list[str], Counter[str], float]:
    """Find what was printed again for no reason, or too often; count the rest by its reason."""
    explain = Reasons(history)
    findings: list[str] = []
    repeats: Counter[str] = Counter()
    furthest = 0.0
    before: dict[Position, tuple[Line, Run]] = {}
    lines = sorted(((line, run) for run in history.runs for line in run.lines), key=lambda each: each[0].moment)
    for line, run in lines:
        earlier, earlier_run = before.get(line.position, (line, run))
        before[line.position] = (line, run)
        if earlier is line:
            continue
        reason = explain.reason(earlier, earlier_run, line, run)
        if not reason:
            after = (
                " after an orderly stop of all copies"
                if explain.restarted(earlier_run, line, run)
                else " for no reason"
            )
            where = f"{line.position}, {earlier.moment:.1f} s by {earlier_run.name}, {line.moment:.1f} s by {run.name}"
            findings.append(f"printed again{after}: {where}")
        elif reason in KILLED and earlier_run.stopped is not None:
            furthest = max(furthest, earlier_run.stopped - earlier.moment)
        repeats[reason or "no reason"] += 1
    return [*findings, *explain.too_many()], repeats, furthest


class Reasons:
    """What explains a repeat in a history."""

    def __init__(self, history: History) -> None:
        """Take what does not depend on the line."""
        self.history = history
        self.windows = sorted(unsettled(history))
        stops = [stop for stop in history.group_stops if orderly(history, stop)]
        self.stops = [(max((run.exited or 0 for run in stop.runs), default=0), stop.runs) for stop in stops]
        self.in_hand: Counter[tuple[Window, Run, Run]] = Counter()

    def restarted(self, earlier_run: Run, line: Line, run: Run) -> bool:
        """Tell whether between the lines of two runs the whole group has stopped in order."""
        return any(earlier_run in runs and run not in runs and end <= line.moment for end, runs in self.stops)

    def reason(self, earlier: Line, earlier_run: Run, line: Line, run: Run) -> str:
        """Return why a message may be printed again, or nothing."""
        killed_later = earlier_run.killed and line.moment < (earlier_run.stopped or 0)
        if not killed_later and (loss := lost_place(earlier_run, earlier)):
            return loss
        since = COMMIT_SECONDS + (0 if earlier_run.piped else SYNC_SECONDS)
        for trouble in self.history.troubles:
            begin, end = trouble.begin - since, trouble.end + trouble.after
            at = [earlier.moment] if trouble.run in (None, earlier_run) else []
            at += [line.moment] if trouble.run is run and earlier.moment >= begin else []
            if any(begin <= moment <= end for moment in at) and not (
                trouble.run is None and self.restarted(earlier_run, line, run)
            ):
                return trouble.what
        # The first of the two is printed while the partition changes hands: the other was in hand.
        found = [each for each in self.windows if each.begin <= earlier.moment <= each.end]
        if not found or self.restarted(earlier_run, line, run):
            return ""
        self.in_hand[found[-1], earlier_run, run] += 1
        return "a rebalance"

    def too_many(self) -> list[str]:
        """Find rebalances in which a run printed more of another's again than one of the two can have in hand."""
        return [
            f"printed again in one rebalance, at {window.begin:.1f} s: {count} messages of {earlier.name} by {run.name}"
            for (window, earlier, run), count in self.in_hand.items()
            if count > IN_HAND
        ]


def lost_place(run: Run, line: Line) -> str:
    """Return what has kept a run from committing a line that it printed, or nothing."""
    since = loss(run)
    if since is None or line.moment < since.begin:
        return ""
    if run.killed:
        return run.how
    return "reader that goes" if run.left is not None else "crash" if run.crashed else f"status {run.outcome}"


def loss(run: Run) -> Window | None:
    """Return the time whose lines a run has not committed, for it has not ended in order."""
    if run.exited is None or run.in_order:
        return None
    end = run.exited if run.asked is None or run.outcome == 1 else min(run.asked, run.exited)
    seconds = COMMIT_SECONDS + (0 if run.piped else SYNC_SECONDS) + (CUT_SECONDS if run.how == "power cut" else 0)
    if run.outcome == 1 and not run.killed:  # it has tried to commit for so long, or has been blocked
        seconds += STOP_SECONDS
    if run.left is not None and run.outcome == 0:  # it has committed all but what it had in hand
        seconds = LOOK_SECONDS
    return Window(end - seconds, run.exited)


# -- how strong the verdict is


def troubled_window(trouble: Trouble) -> Window:
    """Return when a trouble may have consequences."""
    return Window(trouble.begin - COMMIT_SECONDS - SYNC_SECONDS, trouble.end + trouble.after)


def unexplained(history: History, begin: float, end: float) -> float:
    """Return for how many seconds between two moments nothing would explain a repeat."""
    windows = [*unsettled(history), *(troubled_window(trouble) for trouble in history.troubles)]
    windows += [window for run in history.runs if (window := loss(run)) is not None]
    free, at = 0.0, begin
    for window in sorted(windows):
        free += max(0.0, min(window.begin, end) - at)
        at = max(at, min(window.end, end))
    return free + max(0.0, end - at)
