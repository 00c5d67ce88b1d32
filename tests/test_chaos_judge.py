"""The judge of the checker with random faults: short histories, in each of which it finds exactly what is wrong."""

import signal
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from chaos.judge import (
    COMMIT_SECONDS,
    CUT_SECONDS,
    IN_HAND,
    RECOVERY_SECONDS,
    SETTLE_SECONDS,
    STOP_SECONDS,
    SYNC_SECONDS,
    WARNING,
    GroupStop,
    History,
    Line,
    Run,
    Sent,
    Trouble,
    Window,
    judge,
    unexplained,
)
from harness import words

START, END = 100.0, 200.0  # the moments between which the runs of these histories print
QUIET = 150.0  # far from both


def lines(offsets: Iterable[int], moment: float = QUIET, partition: int = 0) -> list[Line]:
    """Return the lines of some messages, all printed at a moment."""
    return [Line(partition, offset, b"%d" % offset, moment) for offset in offsets]


def run(name: str, *printed: list[Line], **other: Any) -> Run:
    """Return a run that was started and stopped in order, but for what is said otherwise."""
    usual = {"began": START - 2, "greeted": START - 1, "stopped": END, "how": "SIGTERM", "exited": END + 1, "status": 0}
    return Run(name, lines=[line for some in printed for line in some], **{**usual, "copy": ord(name[0]), **other})


def history(*runs: Run, sent: int = 10, **other: Any) -> History:
    """Return a history of runs that share a topic with so many messages in partition 0."""
    messages = {(0, offset): Sent(offset, b"%d" % offset) for offset in range(sent)}
    return History(list(runs), sent=messages, **other)


def findings(*runs: Run, **other: Any) -> Sequence[str]:
    """Return what the judge finds in the history of some runs."""
    return judge(history(*runs, **other)).findings


def test_nothing_is_wrong() -> None:
    assert findings(run("a", lines(range(5))), run("b", lines(range(5, 10)))) == []


# -- messages


def test_a_lost_message() -> None:
    assert findings(run("a", lines([*range(4), *range(6, 10)]))) == ["lost: 2 messages, the first at (0, 4)"]


def test_a_wrong_value() -> None:
    wrong = Line(0, 9, b"another", QUIET)
    assert findings(run("a", lines(range(9)), [wrong])) == ["a: another value at (0, 9)"]


def test_a_tombstone_is_no_empty_value() -> None:
    sent = {(0, 0): Sent(0, None)}
    kept = History([run("a", [Line(0, 0, b"", QUIET)])], sent=sent)
    assert judge(kept).findings == ["a: another value at (0, 0)"]


def test_a_message_that_was_never_sent() -> None:
    assert findings(run("a", lines(range(11)))) == ["a: printed (0, 10), which was never sent"]


def test_a_message_that_kafka_has_lost() -> None:
    found = findings(run("a", lines(range(10))), acknowledged={3: (0, 3), 10: (0, 10)})
    assert found == ["Kafka lost message 10, acknowledged at 0, 10: found at None"]


def test_a_message_whose_offset_the_broker_did_not_tell() -> None:
    assert findings(run("a", lines(range(10))), acknowledged={3: (0, None)}) == []


def test_half_a_line() -> None:
    assert findings(run("a", lines(range(10)), half="{")) == ["a: ended with half a line: {"]


@pytest.mark.parametrize("end", [{"how": "kill -9", "status": -9}, {"stopped": None, "left": END}])
def test_half_a_line_of_a_run_that_could_not_help_it(end: dict[str, Any]) -> None:
    assert findings(run("a", lines(range(10)), half="{", **end)) == []


def test_a_line_added_to_half_of_another() -> None:
    found = findings(run("a", lines(range(10)), joined=["}"], broken=["{}"]))
    assert found == ["a: a broken line: {}", "a: a line was added to the half of another: }"]


# -- order


def test_an_order_broken_within_a_run() -> None:
    assert findings(run("a", lines([0, 2, 1, *range(3, 10)]))) == ["a: back to (0, 1)"]


def test_partitions_have_an_order_each() -> None:
    sent = {(partition, 0): Sent(partition, b"0") for partition in (0, 1)}
    printed = run("a", lines([0], partition=1), lines([0]))
    assert judge(History([printed], sent=sent)).findings == []


def test_a_run_goes_back_where_a_partition_comes_back_to_it() -> None:
    moved = [Window(QUIET - 1, QUIET)]
    assert findings(run("a", lines(range(10)), lines([8, 9])), rebalances=moved) == []


# -- ends


@pytest.mark.parametrize(
    ("end", "found"),
    [
        ({"exited": END + STOP_SECONDS + 1, "tail": "x"}, f"a: its stop took {STOP_SECONDS + 1:.1f} s: x"),
        ({"overdue": 31.0, "status": -9}, "a: still running 31 s after it was to end"),
        ({"status": 1, "tail": "x"}, "a: ended with 1: x"),
        ({"status": 2, "tail": "x"}, "a: ended with 2: x"),
        ({"status": -signal.SIGSEGV, "tail": "x"}, "a: ended with -11: x"),
        ({"said": frozenset({"TRACEBACK"}), "tail": "x"}, "a: ended with 0: x"),
        ({"stopped": None, "how": "", "tail": "x"}, "a: ended by itself with 0: x"),
        ({"status": -signal.SIGTERM, "tail": "x"}, "a: ended with -15: x"),
    ],
    ids=["late", "given up", "status 1", "status 2", "crash", "traceback", "by itself", "by a signal"],
)
def test_an_end_that_is_not_as_promised(end: dict[str, Any], found: str) -> None:
    assert findings(run("a", lines(range(10)), **end)) == [found]


def test_a_stop_is_not_late_while_its_reader_hinders_it() -> None:
    assert findings(run("a", lines(range(10)), exited=END + 20, hindered_until=END + 19)) == []


@pytest.mark.parametrize("status", [0, -signal.SIGTERM])
def test_an_end_after_the_reader_has_gone(status: int) -> None:
    """The signal may also come when the run has no handlers any more."""
    assert findings(run("a", lines(range(10)), left=END - 1, status=status)) == []


def test_status_1_after_the_reader_has_gone() -> None:
    gone = run("a", lines(range(10)), stopped=None, left=END, status=1, tail="x")
    assert findings(gone) == ["a: ended with 1: x"]


def test_status_1_where_standard_output_was_blocked() -> None:
    blocked = {"status": 1, "errors": frozenset({"BLOCKED", "PRINTED_AGAIN"}), "tail": "x", "exited": END + 6}
    assert findings(run("a", lines(range(10)), hindered_until=END + 5, **blocked)) == []
    assert findings(run("a", lines(range(10)), **blocked)) == ["a: ended with 1: x"]
    by_itself = run("a", lines(range(10)), hindered_until=END + 5, stopped=None, how="", **blocked)
    assert findings(by_itself) == ["a: ended with 1: x"]


def test_status_1_where_a_login_was_refused() -> None:
    refused = run("a", lines(range(10)), status=1, errors=frozenset({"REFUSED"}), tail="x")
    wrong_password = Trouble("wrong password", END - 10, END, after=RECOVERY_SECONDS)
    long_before = Trouble("wrong password", QUIET - 10, QUIET, after=RECOVERY_SECONDS)
    assert findings(refused, troubles=[wrong_password]) == []
    for troubles in ([], [long_before]):
        assert findings(refused, troubles=troubles) == ["a: ended with 1: x"]


def test_status_1_where_a_commit_may_fail() -> None:
    uncommitted = run("a", lines(range(10)), status=1, errors=frozenset({"NOT_COMMITTED", "PRINTED_AGAIN"}), tail="x")
    killed = run("b", how="kill -9", status=-9, stopped=END - 3, exited=END - 3)
    assert findings(uncommitted, killed) == []
    own_warning = Trouble(WARNING, END + 1 - RECOVERY_SECONDS, END + 1, uncommitted, RECOVERY_SECONDS)
    assert findings(uncommitted, troubles=[own_warning]) == ["a: ended with 1: x"]


def test_status_1_where_a_reader_let_the_group_go_on_without_it() -> None:
    words_of_it = {"errors": frozenset({"NOT_COMMITTED", "PRINTED_AGAIN"}), "hindered_until": END - 1}
    assert findings(run("a", lines(range(10)), status=1, **words_of_it)) == []


def test_a_traceback_of_a_run_that_is_killed_later() -> None:
    traced = run("a", lines(range(10)), how="kill -9", status=-9, said=frozenset({"TRACEBACK"}), tail="x")
    assert findings(traced) == ["a: a traceback before it was killed: x"]


# -- silence


def steady(moments: Iterable[float], partition: int) -> list[Line]:
    """Return the lines of a partition, one at each moment."""
    return [Line(partition, offset, b"%d" % offset, moment) for offset, moment in enumerate(moments)]


def silences(*runs: Run, **other: Any) -> Sequence[str]:
    """Return what is found where the topic holds what the runs have printed, and no more."""
    sent = {line.position: Sent(line.offset, line.value) for one in runs for line in one.lines}
    return judge(History(list(runs), sent=sent, **other)).findings


def test_a_run_that_gives_nothing_while_others_do() -> None:
    """As where its client has left the group unseen; the others read what is its."""
    working = run("a", steady(range(101, 200), 0))
    silent = run("b", steady([101], 1))
    found = silences(working, silent)
    assert found == ["b: no line in 95 calm seconds from 101.0 s on"]
    in_trouble = Trouble("kill -9 of a node", 110, 190, after=RECOVERY_SECONDS)
    assert silences(working, silent, troubles=[in_trouble]) == []
    assert silences(working, silent, hindrances=[Window(110, 190)]) == []


def test_a_run_that_never_greets_while_others_print() -> None:
    hanging = run("b", began=120.0, greeted=None)
    working = run("a", steady(range(101, 200), 0))
    taking_its_share = run("c", *(steady(range(101, 200), partition) for partition in (1, 2)))
    assert silences(working, taking_its_share, hanging) != []


def test_a_run_that_has_no_partition_gives_nothing() -> None:
    assert silences(run("a", steady(range(101, 200), 0)), run("b")) == []


def test_nothing_is_printed_where_nothing_comes() -> None:
    assert silences(run("a", steady([101, 190], 0)), run("b", steady([101, 190], 1))) == []


# -- repeats


def again(earlier: float, later: float, first: dict[str, Any] | None = None, **other: Any) -> Sequence[str]:
    """Return what is found where b prints a message at a moment that a has printed at another."""
    second = run("b", lines([9], later))
    return findings(run("a", lines(range(10), earlier), **(first or {})), second, **other)


def where(earlier: float, later: float) -> str:
    """Return how a finding names the message of `again`."""
    return f"(0, 9), {earlier:.1f} s by a, {later:.1f} s by b"


def test_a_repeat_for_no_reason() -> None:
    assert again(QUIET, QUIET + 1) == [f"printed again for no reason: {where(QUIET, QUIET + 1)}"]


KILL = {"how": "kill -9", "status": -9, "stopped": QUIET, "exited": QUIET}
CUT = {**KILL, "how": "power cut"}
FILE_SECONDS = COMMIT_SECONDS + SYNC_SECONDS


@pytest.mark.parametrize(
    ("end", "seconds"),
    [({**KILL, "piped": True}, COMMIT_SECONDS), (KILL, FILE_SECONDS), (CUT, FILE_SECONDS + CUT_SECONDS)],
    ids=["kill -9 of a pipe", "kill -9 of a file", "power cut"],
)
def test_a_kill_repeats_what_was_printed_last(end: dict[str, Any], seconds: float) -> None:
    within, before = QUIET - seconds + 0.1, QUIET - seconds - 0.1
    assert again(within, QUIET + 7, end) == []
    assert again(before, QUIET + 7, end) == [f"printed again for no reason: {where(before, QUIET + 7)}"]


def test_a_reader_that_goes_takes_what_was_in_hand() -> None:
    gone = {"stopped": None, "left": QUIET, "exited": QUIET + 1, "piped": True}
    assert again(QUIET - 0.4, QUIET + 3, gone) == []
    assert again(QUIET - 1.5, QUIET + 3, gone) == [f"printed again for no reason: {where(QUIET - 1.5, QUIET + 3)}"]


def test_a_kill_explains_nothing_that_came_before_it() -> None:
    assert again(QUIET - 2, QUIET - 1, KILL) == [f"printed again for no reason: {where(QUIET - 2, QUIET - 1)}"]


def test_a_trouble_explains_what_was_printed_in_it() -> None:
    """Not what was printed long before, even if it is printed again amid the trouble."""
    down = [Trouble("kill -9 of a node", QUIET, QUIET + 5, after=RECOVERY_SECONDS)]
    assert again(QUIET + 1, QUIET + 9, troubles=down) == []
    assert again(QUIET - 9, QUIET + 1, troubles=down) == [f"printed again for no reason: {where(QUIET - 9, QUIET + 1)}"]


def test_the_trouble_of_one_run_explains_nothing_of_another() -> None:
    a, b, c = run("a", lines(range(10))), run("b", lines([9], QUIET + 1)), run("c")
    trouble = [Trouble("long freeze", QUIET - 1, QUIET + 1, c)]
    assert findings(a, b, c, troubles=trouble) == [f"printed again for no reason: {where(QUIET, QUIET + 1)}"]
    assert findings(a, b, c, troubles=[Trouble("long freeze", QUIET - 1, QUIET + 1, a)]) == []


def test_the_trouble_of_a_run_explains_what_it_printed_again_but_not_from_long_before() -> None:
    a, b, long_before = (
        run("a", lines(range(10))),
        run("b", lines([9], QUIET + 1)),
        run("a", lines(range(10), QUIET - 40)),
    )
    trouble = [Trouble("slow disk", QUIET - 1, QUIET + 4, b)]
    assert findings(a, b, troubles=trouble) == []
    found = findings(long_before, b, troubles=trouble)
    assert found == [f"printed again for no reason: {where(QUIET - 40, QUIET + 1)}"]


def test_a_rebalance_explains_what_was_in_hand() -> None:
    moved = [Window(QUIET - 1, QUIET)]
    assert again(QUIET, QUIET + 30, rebalances=moved) == []
    late = QUIET + SETTLE_SECONDS + 1
    assert again(late, late + 1, rebalances=moved) == [f"printed again for no reason: {where(late, late + 1)}"]


def test_a_rebalance_waits_for_a_copy_whose_reader_stands_still() -> None:
    moved, still = [Window(QUIET, QUIET)], [Window(QUIET - 1, QUIET + 9)]
    assert again(QUIET + 9, QUIET + 10, rebalances=moved, hindrances=still) == []


@pytest.mark.parametrize(("count", "found"), [(IN_HAND, 0), (IN_HAND + 1, 1)])
def test_one_too_many_in_a_rebalance(count: int, found: int) -> None:
    moved, both = [Window(QUIET - 1, QUIET)], [run(name, lines(range(count))) for name in "ab"]
    sentence = f"printed again in one rebalance, at {QUIET - 1.5:.1f} s: {count} messages of a by b"
    assert findings(*both, sent=count, rebalances=moved) == [sentence] * found


# -- stops of all copies


def stopped_at(run: Run, moment: float) -> Run:
    """Return a run that was asked to stop at a moment, and did."""
    run.stopped, run.exited = moment, moment + 0.5
    return run


def test_a_repeat_after_an_orderly_stop_of_all_copies() -> None:
    """Though another copy has just been started."""
    first = stopped_at(run("a", lines(range(10), QUIET)), QUIET + 0.1)
    second = run("b", lines([9], QUIET + 2), began=QUIET + 1, greeted=QUIET + 1.5)
    found = findings(first, second, group_stops=[GroupStop(QUIET + 0.1, [first])])
    assert found == [f"printed again after an orderly stop of all copies: {where(QUIET, QUIET + 2)}"]
    assert findings(first, second) == []


def test_a_stop_of_all_copies_that_was_not_in_order() -> None:
    started = run("a", lines(range(10)), greeted=QUIET - 1)
    wanted = "the whole group did not stop in order: a had just started"
    assert findings(started, group_stops=[GroupStop(QUIET, [started], must=True)]) == [wanted]
    assert findings(started, group_stops=[GroupStop(QUIET, [started])]) == []


def test_what_never_came_about_is_found() -> None:
    assert findings(run("a", lines(range(10))), failures=["not within 120 s: quiet"]) == ["not within 120 s: quiet"]


# -- what the verdict is worth


def test_the_seconds_that_nothing_explains() -> None:
    """All but those of a trouble, and of a rebalance that reaches into it."""
    down = Trouble("kill -9 of a node", 140, 150, after=RECOVERY_SECONDS)
    moved = Window(120, 134)
    explained = (150 + RECOVERY_SECONDS) - (120 - 0.5)
    quiet = history(run("a", lines(range(10))), troubles=[down], rebalances=[moved])
    assert unexplained(quiet, 110, 190) == pytest.approx(80 - explained)
    assert unexplained(history(run("a")), 110, 190) == 80


# -- words


@pytest.mark.parametrize(
    ("said", "names"),
    [
        ("tron.x: 3 partitions, group g: waits for new messages", {"GREETING"}),
        ("tron.x: 1 partition, group g: resumes after the last message printed", {"GREETING"}),
        ("tron.x: assigned 1 partition", {"ASSIGNED"}),
        ("tron.x: assigned 3 partitions", {"ASSIGNED"}),
        (
            "error: standard output is blocked: what it did not take will be printed by the next run",
            {"ERROR", "BLOCKED"},
        ),
        (
            "warning: what was printed may be printed again: offsets were not committed (…)",
            {"NOT_COMMITTED", "PRINTED_AGAIN"},
        ),
        ("error: the broker does not answer, or the group waits for another member", {"ERROR", "PRINTED_AGAIN"}),
        ("warning: partition 0 stands still: starting a new client (…)", {"NEW_CLIENT"}),
        ("warning: TLS failed: check ssl.ca.location", {"DISTRUSTED"}),
        ("error: login failed: check sasl.username", {"ERROR", "REFUSED", "CRASHING"}),
        ("error: this user may not read topic t: check --topic", {"ERROR", "REFUSED"}),
    ],
)
def test_the_words_of_the_script(said: str, names: set[str]) -> None:
    assert words.found(f"{said}\n") == names


def test_what_is_said_beside_an_error_does_not_excuse_the_end() -> None:
    text = "warning: offsets were not committed\nerror: standard output is blocked\n"
    assert words.found(words.errors(text)) == {"ERROR", "BLOCKED"}
