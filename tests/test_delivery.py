"""At least once: whatever happens to the consumer, its reader or the broker, no message is missing."""

import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
from harness.broker import QUICK_START, Broker, free_port
from harness.environment import SCRIPT
from harness.process import Start, offsets, seconds_at_most, wait_until_full, with_client
from harness.proxy import Proxy
from harness.settings import NEW_PROTOCOL, PROTOCOLS, STRATEGIES, Keys, settings
from harness.words import ASSIGNED, GREETING, NEW_CLIENT, NOT_COMMITTED

# ---- the consumer --------------------------------------------------------------------------------------------------


@pytest.mark.timeout(240)
@PROTOCOLS
def test_killed_again_and_again(broker: Broker, topic3: str, start: Start, protocol: Keys) -> None:
    broker.produce(topic3, (b"x" * 300 for _ in range(120_000)))
    quick = {} if protocol else {"session.timeout.ms": "1500", "heartbeat.interval.ms": "300"}
    keys = {**settings(broker, {"auto.commit.interval.ms": "100", **protocol}), **quick}
    chance = random.Random(1)
    runs = []
    for _ in range(6):
        runs.append(start(keys, topic3))
        size = chance.randrange(600_000, 2_400_000)  # of the 41 MB that there are
        runs[-1].wait_for(lambda run, size=size: run.stdout_path.stat().st_size > size)  # type: ignore[misc]
        runs[-1].kill()
    runs.append(start(keys, topic3))
    broker.wait_until_committed(keys["group.id"], topic3, 3)
    assert runs[-1].stop() == 0
    assert set(offsets(runs)) == broker.messages(topic3, 3)


def test_a_kill_repeats_what_was_printed_in_the_last_second(broker: Broker, topic: str, start: Start) -> None:
    keys = settings(broker)
    run = start(keys, topic)
    run.wait_for_words(ASSIGNED)
    produced: list[float] = []
    while not produced or time.monotonic() < produced[0] + 4:
        produced.append(time.monotonic())
        broker.produce(topic, [b"x"])
        time.sleep(0.02)
    run.wait_for_lines(len(produced))
    run.kill()
    killed = time.monotonic()
    repeated = produced[broker.committed(keys["group.id"], topic)[0] :]
    assert not repeated or killed - repeated[0] < 3  # two for a machine that has other things to do


def test_two_signals_at_once_end_it_without_a_traceback(broker: Broker, topic: str, start: Start) -> None:
    broker.produce(topic, [b"x"])
    run = start(settings(broker), topic)
    run.wait_for_lines(1)
    run.process.send_signal(signal.SIGTERM)
    run.process.send_signal(signal.SIGINT)
    with seconds_at_most(5):
        assert run.end() in (0, -signal.SIGTERM, -signal.SIGINT)
    assert "Traceback" not in run.stderr


def test_a_terminal_that_is_closed_ends_it_like_sigterm(broker: Broker, topic: str, start: Start) -> None:
    """Or the next run would wait for session.timeout.ms; but not what nohup has started."""
    broker.produce(topic, [b"x"])
    keys = settings(broker, {"session.timeout.ms": "30000"})
    first = start(keys, topic)
    first.wait_for_lines(1)
    assert first.stop(signal.SIGHUP) == 0
    broker.produce(topic, [b"y"])
    second = start(keys, topic, command=["nohup", sys.executable, str(SCRIPT)])
    second.wait_for_lines(1, 20)
    second.process.send_signal(signal.SIGHUP)
    broker.produce(topic, [b"z"])
    second.wait_for_lines(2)
    assert second.stop() == 0
    assert offsets([first, second]) == {(0, 0): 1, (0, 1): 1, (0, 2): 1}


@pytest.mark.quiet
def test_it_stops_within_two_seconds_while_messages_flow(broker: Broker, topic: str, start: Start) -> None:
    broker.produce(topic, (b"x" * 1000 for _ in range(60_000)))
    run = start(settings(broker), topic)
    run.wait_for_lines(1)
    with seconds_at_most(2):
        assert run.stop(signal.SIGTERM) == 0
    assert run.count_lines() < 60_000


@pytest.mark.quiet
def test_it_stops_well_within_two_seconds_while_no_message_comes(broker: Broker, topic: str, start: Start) -> None:
    broker.produce(topic, [b"x"])
    run = start(settings(broker), topic)
    run.wait_for_lines(1)
    with seconds_at_most(1.5):
        assert run.stop(signal.SIGTERM) == 0


@pytest.mark.parametrize(
    ("how", "protocol"),
    [(signal.SIGINT, {}), (signal.SIGTERM, NEW_PROTOCOL)],
    ids=["Ctrl-C, classic", "SIGTERM, consumer"],
)
def test_stopped_again_and_again_each_message_is_printed_once(
    broker: Broker, topic3: str, start: Start, how: int, protocol: Keys
) -> None:
    broker.produce(topic3, (b"x" * 1000 for _ in range(30_000)))
    keys = settings(broker, protocol)
    runs = []
    for _ in range(4):
        runs.append(start(keys, topic3))
        runs[-1].wait_for_lines(1)
        assert runs[-1].stop(how) == 0
        assert "Traceback" not in runs[-1].stderr
    runs.append(start(keys, topic3))
    runs[-1].wait_for(lambda _: sum(run.count_lines() for run in runs) >= 30_000)
    assert runs[-1].stop(how) == 0
    assert offsets(runs) == Counter(broker.messages(topic3, 3))


def test_max_messages_and_the_next_run_goes_on_with_the_one_after(broker: Broker, topic: str, start: Start) -> None:
    broker.produce(topic, [b"%d" % n for n in range(3000)])
    keys = settings(broker)
    printed = []
    for count in (1, 2, 700, 1000):
        run = start(keys, topic, "--max-messages", str(count))
        assert run.end() == 0
        assert len(run.lines) == count
        printed += [line["offset"] for line in run.lines]
    assert printed == list(range(1703))


def test_without_auto_commit_nothing_is_committed(broker: Broker, topic: str, start: Start) -> None:
    broker.produce(topic, [b"x"] * 10)
    keys = settings(broker, {"enable.auto.commit": "false"})
    for _ in range(2):
        run = start(keys, topic, "--max-messages", "10")
        assert run.end() == 0
        assert len(run.lines) == 10
    assert broker.committed(keys["group.id"], topic) == [-1001]


def freezing(broker: Broker, method: str) -> list[str]:
    """Return a command that runs the script, and freezes the broker when the script calls this method of the client."""
    assert broker.process is not None
    # A thread of the broker's may run on for a moment, and answer.
    return with_client(f"""
            def {method}(self, **arguments):
                import glob
                os.kill({broker.process.pid}, signal.SIGSTOP)
                threads = glob.glob("/proc/{broker.process.pid}/task/*/stat")
                while not all(") T " in open(thread).read() for thread in threads):
                    time.sleep(0.01)
                return super().{method}(**arguments)""")


def wait_until_frozen(broker: Broker) -> None:
    """Wait until the script has called the method that freezes the broker."""
    assert broker.process is not None
    process, deadline = psutil.Process(broker.process.pid), time.monotonic() + 60
    while process.status() != psutil.STATUS_STOPPED:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def go_on(broker: Broker) -> None:
    """Let a frozen broker go on."""
    assert broker.process is not None
    broker.process.send_signal(signal.SIGCONT)


def test_the_first_signal_cuts_no_goodbye_short(own_broker: Broker, own_topic: str, start: Start) -> None:
    """Of a run that has come to its end by itself."""
    own_broker.produce(own_topic, [b"x"] * 10)
    keys = settings(own_broker, {"auto.commit.interval.ms": "60000"})
    run = start(keys, own_topic, "--max-messages", "10", command=freezing(own_broker, "close"))
    run.wait_for_words("stopped: ")
    wait_until_frozen(own_broker)
    run.process.send_signal(signal.SIGTERM)
    time.sleep(1)
    assert run.process.poll() is None
    go_on(own_broker)
    assert run.end() == 0
    assert own_broker.committed(keys["group.id"], own_topic) == [10]


def test_the_second_ctrl_c_ends_it_while_a_dead_broker_holds_up_the_goodbye(
    own_broker: Broker, own_topic: str, start: Start
) -> None:
    own_broker.produce(own_topic, [b"x"] * 10)
    run = start(settings(own_broker, {**NEW_PROTOCOL, "auto.commit.interval.ms": "60000"}), own_topic)
    run.wait_for_lines(10)
    own_broker.stop(signal.SIGKILL)
    run.process.send_signal(signal.SIGINT)
    time.sleep(1)
    assert run.process.poll() is None  # it waits for the coordinator
    with seconds_at_most(3):  # of the five that the first one gives, four are left
        assert run.stop() == -signal.SIGINT
    assert "Traceback" not in run.stderr


# ---- the group -----------------------------------------------------------------------------------------------------


@STRATEGIES
def test_two_copies_share_the_partitions(broker: Broker, topic3: str, start: Start, protocol: Keys) -> None:
    keys = settings(broker, protocol)
    runs = [start(keys, topic3), start(keys, topic3)]

    def feed() -> None:
        for partition in range(3):
            broker.produce(topic3, [b"x"], partition=partition)

    deadline = time.monotonic() + 30
    while not all(run.count_lines() for run in runs):
        assert time.monotonic() < deadline, [run.stderr for run in runs]
        feed()
        time.sleep(0.2)
    before = broker.messages(topic3, 3)
    runs[0].wait_for(lambda _: set(offsets(runs)) == before)
    for _ in range(10):
        feed()
    wanted = broker.messages(topic3, 3)
    runs[0].wait_for(lambda _: set(offsets(runs)) == wanted)
    for run in runs:
        assert run.stop() == 0
        assert run.stderr.count(GREETING) == 1
    printed = [{(line["partition"], line["offset"]) for line in run.lines} - before for run in runs]
    assert all(printed)
    assert not printed[0] & printed[1]


@pytest.mark.timeout(240)
@PROTOCOLS
def test_copies_come_and_go_while_messages_flow(broker: Broker, topic3: str, start: Start, protocol: Keys) -> None:
    keys = settings(broker, protocol)
    runs = [start(keys, topic3), start(keys, topic3)]

    def flow(seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            broker.produce(topic3, [b"x" * 100] * 500)
            time.sleep(0.02)

    for run in runs:
        run.wait_for_words(ASSIGNED)
    flow(3)
    runs.append(start(keys, topic3))
    flow(5)
    runs[0].kill()
    flow(4)
    assert runs[1].stop(signal.SIGTERM) == 0
    runs.append(start(keys, topic3))
    flow(4)
    broker.wait_until_committed(keys["group.id"], topic3, 3)
    assert set(offsets(runs)) == broker.messages(topic3, 3)
    for run in runs[2:]:
        assert run.process.poll() is None, run.stderr
        assert run.stop() == 0
    for run in runs:
        assert "error" not in run.stderr
        assert "Traceback" not in run.stderr


def test_a_copy_without_a_partition_waits_in_reserve(broker: Broker, topic: str, start: Start) -> None:
    broker.produce(topic, [b"x"])
    keys = settings(broker)
    first = start(keys, topic)
    first.wait_for_lines(1)
    second = start(keys, topic)
    second.wait_for_words(ASSIGNED)
    assert first.stop() == 0
    broker.produce(topic, [b"y"])
    second.wait_for_lines(1)
    assert second.stop() == 0
    assert offsets([first, second]) == {(0, 0): 1, (0, 1): 1}


# ---- the broker ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "protocol"),
    [(signal.SIGTERM, {}), (signal.SIGKILL, {}), (signal.SIGKILL, NEW_PROTOCOL)],
    ids=["stopped", "killed", "killed, new protocol"],
)
def test_the_broker_goes_for_ten_seconds(
    own_broker: Broker, own_topic: str, start: Start, how: int, protocol: Keys
) -> None:
    """One that shuts down may answer that there is none: then only a new client helps (librdkafka's issue 5301)."""
    own_broker.produce(own_topic, [b"before"] * 10)
    constants = {"LOOK_SECONDS": 2, "OUTAGE_SECONDS": 20}  # longer than it is away
    run = start(settings(own_broker, protocol), own_topic, "--quiet", constants=constants)
    run.wait_for_lines(10)
    own_broker.restart(how, pause=10)
    own_broker.produce(own_topic, [b"after"] * 10)
    run.wait_for(lambda run: len(offsets([run])) == 20)  # some may be repeated
    assert run.stop() == 0
    assert set(offsets([run])) == {(0, n) for n in range(20)}
    assert 1 <= run.stderr.count("warning") <= 4, run.stderr  # a lost connection, a commit, the group, a new client
    assert "error: " not in run.stderr
    assert not re.search(r"\w+://|/(bootstrap|\d+): |\(after ", run.stderr)  # what only librdkafka's developers need


@PROTOCOLS
def test_stopped_while_the_broker_is_down_it_says_so(
    own_broker: Broker, own_topic: str, start: Start, protocol: Keys
) -> None:
    """Also once the group has given it up, so that nothing holds up the goodbye any more."""
    run = start(settings(own_broker, {**protocol, "auto.commit.interval.ms": "3000"}), own_topic)
    own_broker.produce(own_topic, [b"x"] * 10)
    run.wait_for_lines(10)
    own_broker.stop(signal.SIGKILL)
    run.wait_for_words(NOT_COMMITTED)
    assert run.stop() == 1
    assert re.match("error: .*what was printed (last )?may be printed again", run.stderr.splitlines()[-1])


def test_a_broker_that_knows_no_broker_as_happens_while_it_shuts_down(
    kafka: None, start: Start, tmp_path: Path
) -> None:
    """The client library then forgets it, too, and would not connect again: librdkafka's issue 5301."""
    broker, port, shuts_down = Broker(tmp_path / "broker", QUICK_START), free_port(), threading.Event()
    broker.advertise(SASL_PLAINTEXT=f"127.0.0.1:{port}")

    def edit(piece: bytes) -> bytes:
        """Take the one broker out of a Metadata response of version 9 or newer."""
        the_one = rb"\x02\0\0\0\x01\x0a127\.0\.0\.1.{4}\0\0"
        found = re.search(rb"(.{4})(.{4}\0\0{4})" + the_one, piece, re.DOTALL) if shuts_down.is_set() else None
        if found is None:
            return piece
        header = found[2] + b"\x01"  # an array of none
        size = int.from_bytes(found[1], "big") - len(found[0]) + len(found[1] + header)
        return piece[: found.start()] + size.to_bytes(4, "big") + header + piece[found.end() :]

    with broker, Proxy(broker.ports["SASL_PLAINTEXT"], port, edit=edit):
        topic = broker.create_topic("tron.forgotten")
        broker.produce(topic, [b"x" * 1000] * 5000)
        keys: Keys = {
            "bootstrap.servers": f"127.0.0.1:{port}",
            "security.protocol": "SASL_PLAINTEXT",
            "topic.metadata.refresh.interval.ms": "50",
        }
        constants = {"LOOK_SECONDS": 1, "OUTAGE_SECONDS": 4}
        run = start(settings(broker, keys), topic, stdout=subprocess.PIPE, constants=constants)
        run.wait_for_words(GREETING)
        shuts_down.set()
        time.sleep(2)  # so that messages which have come are yet to be printed when no broker is known any more
        with (
            run.stdout_path.open("wb") as file,
            subprocess.Popen(["cat"], stdin=run.process.stdout, stdout=file),
        ):
            run.wait_for_words(NEW_CLIENT)
            shuts_down.clear()
            broker.produce(topic, [b"y"])
            run.wait_for(lambda run: {line["offset"] for line in run.lines} == set(range(5001)))
            assert run.stop() == 0


def test_a_connection_that_dies_without_a_word(kafka: None, start: Start, tmp_path: Path) -> None:
    """As behind a router that was restarted, or where a laptop has slept: neither side is told."""
    broker, port = Broker(tmp_path / "broker", QUICK_START), free_port()
    broker.advertise(SASL_PLAINTEXT=f"127.0.0.1:{port}")
    with broker, Proxy(broker.ports["SASL_PLAINTEXT"], port) as proxy:
        topic = broker.create_topic("tron.dead")
        broker.produce(topic, [b"x"])
        keys: Keys = {"bootstrap.servers": f"127.0.0.1:{port}", "security.protocol": "SASL_PLAINTEXT"}
        keys = settings(broker, {**keys, "session.timeout.ms": "30000"})
        run = start(keys, topic)
        run.wait_for_lines(1)
        proxy.let_die()
        broker.produce(topic, [b"y"])
        run.wait_for_lines(2, 40)
        broker.wait_until_committed(
            str(keys["group.id"]), topic, 1
        )  # over the connection to the coordinator, which is another
        assert run.stop() == 0, run.stderr


def test_ctrl_c_while_the_start_waits_for_a_dead_coordinator(own_broker: Broker, own_topic: str, start: Start) -> None:
    """A commit that is not answered cannot be interrupted."""
    keys: Keys = {"auto.offset.reset": "latest", "session.timeout.ms": "30000"}
    # Frozen once it has told where the partitions end: the commit is the request after that.
    run = start(settings(own_broker, keys), own_topic, command=freezing(own_broker, "commit"))
    wait_until_frozen(own_broker)
    time.sleep(0.5)  # it waits for an answer
    assert run.process.poll() is None
    began = time.monotonic()
    assert run.stop() == 1
    go_on(own_broker)
    assert time.monotonic() - began < 8
    assert run.stderr.startswith("error: the broker does not answer")


@pytest.mark.parametrize("hangs", ["the broker", "standard output", "both outputs"])
def test_what_hangs_holds_up_the_end_for_five_seconds(
    own_broker: Broker, own_topic: str, start: Start, hangs: str
) -> None:
    """Below the ten after which `docker stop` kills; a frozen broker and a reader that stands still, or either."""
    own_broker.produce(own_topic, [b"x" * 10_000] * 100)
    keys: Keys = {"auto.commit.interval.ms": "60000", "session.timeout.ms": "30000"}
    pipes: dict[str, dict[str, int]] = {
        "the broker": {},
        "standard output": {"stdout": subprocess.PIPE},
        "both outputs": {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT},
    }
    run = start(settings(own_broker, keys), own_topic, **pipes[hangs])
    if hangs == "the broker":
        run.wait_for_lines(100)
    else:
        wait_until_full(run.process.stdout)
    assert own_broker.process is not None
    own_broker.process.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    assert run.stop(signal.SIGTERM) == 1
    took = time.monotonic() - began
    go_on(own_broker)
    assert 4.5 < took < 8
    words = {"the broker": "the broker does not answer", "standard output": "standard output is blocked"}
    if hangs in words:
        assert run.stderr.splitlines()[-1].startswith(f"error: {words[hangs]}")
    assert "Traceback" not in run.stderr


def test_retention_deletes_what_was_not_yet_read(broker: Broker, topic: str, start: Start) -> None:
    broker.produce(topic, [b"x"] * 100)
    keys = settings(broker)
    assert start(keys, topic, "--max-messages", "10").end() == 0
    broker.delete_records(topic, before=50)
    run = start(keys, topic, "--max-messages", "50", "--quiet")
    assert run.end() == 0
    assert [line["offset"] for line in run.lines] == list(range(50, 100))
    (warning,) = run.stderr.splitlines()
    assert warning.startswith("warning: messages were deleted before they were read")
    assert "offset 10" in warning


def test_a_topic_that_is_made_anew(broker: Broker, topic: str, start: Start) -> None:
    """In the first half minute of a run, within which the client library lets a topic come into being."""
    broker.produce(topic, [b"old"] * 100)
    run = start(settings(broker), topic)
    run.wait_for_lines(100)
    broker.delete_topic(topic)
    time.sleep(1)  # in which the client hears of it
    broker.create_topic(topic)
    broker.produce(topic, [b"new"] * 10)
    run.wait_for_lines(110)
    assert [line["value"] for line in run.lines[100:]] == ["new"] * 10
    assert run.stop() == 0
    assert "deleted" in run.stderr


def test_the_end_of_a_partition_is_no_error(broker: Broker, topic: str, start: Start) -> None:
    broker.produce(topic, [b"x"])
    run = start(settings(broker, {"enable.partition.eof": "true"}), topic)
    run.wait_for_lines(1)
    time.sleep(0.5)
    broker.produce(topic, [b"y"])
    run.wait_for_lines(2)
    assert run.stop() == 0
    assert "warning" not in run.stderr
    assert "error" not in run.stderr
