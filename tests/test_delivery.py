"""At least once: whatever happens to the consumer, its reader or the broker, no message is missing."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

import lz4.frame
import pytest
from confluent_kafka.admin import NewPartitions
from harness.broker import USER, Broker, ResourceType, wait
from harness.environment import SCRIPT
from harness.process import Run, Start, parse, seconds_at_most, shell
from harness.settings import NEW_PROTOCOL, PROTOCOLS, Keys, settings, write_config

import consumer


def offsets(runs: Iterable[Run]) -> Counter[tuple[int, int]]:
    """Return how often each (partition, offset) was printed."""
    return Counter((line["partition"], line["offset"]) for run in runs for line in run.lines)


def all_of(broker: Broker, topic: str, partitions: int) -> set[tuple[int, int]]:
    """Return each (partition, offset) that the topic has."""
    return {(p, offset) for p in range(partitions) for offset in range(broker.end(topic, p))}


def wait_until_committed(broker: Broker, keys: dict[str, str], topic: str, partitions: int) -> None:
    """Wait until the group has committed all that the topic holds."""
    ends = [broker.end(topic, partition) for partition in range(partitions)]
    deadline = time.monotonic() + 60
    while (now := broker.committed(keys["group.id"], topic, partitions)) != ends:
        assert time.monotonic() < deadline, f"{now} instead of {ends}"
        time.sleep(0.2)


# ---- the consumer --------------------------------------------------------------------------------------------------


@pytest.mark.timeout(240)
@PROTOCOLS
def test_killed_again_and_again(broker: Broker, topic3: str, start: Start, protocol: Keys) -> None:
    broker.produce(topic3, (b"x" * 1000 for _ in range(200_000)))
    quick = {} if protocol else {"session.timeout.ms": "1500", "heartbeat.interval.ms": "300"}
    keys = {**settings(broker, {"auto.commit.interval.ms": "100", **protocol}), **quick}
    chance = random.Random(1)
    runs = []
    for _ in range(6):
        runs.append(start(keys, topic3))
        size = chance.randrange(10_000_000, 30_000_000)  # of the 210 MB that there are
        runs[-1].wait_for(lambda run, size=size: run.stdout_path.stat().st_size > size, 60)  # type: ignore[misc]
        runs[-1].kill()
    runs.append(start(keys, topic3))
    wait_until_committed(broker, keys, topic3, 3)
    assert runs[-1].stop() == 0
    printed = offsets(runs)
    wanted = all_of(broker, topic3, 3)
    assert set(printed) == wanted
    repeated = sum(printed.values()) - len(wanted)
    # A tenth of a second and a batch for each kill, on a machine that prints less than 200,000 messages a second.
    assert repeated < 6 * 25_000


@PROTOCOLS
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["stopped", "killed"])
def test_a_group_that_began_at_the_end_misses_nothing_from_then_on(
    broker: Broker, topic3: str, start: Start, how: int, protocol: Keys
) -> None:
    keys = settings(broker, {"auto.offset.reset": "latest", **protocol})
    broker.produce(topic3, [b"before"], partition=1)
    first = start(keys, topic3)
    first.wait_for_words("waits for new messages")
    broker.produce(topic3, [b"x"], partition=0)
    first.wait_for_lines(1)
    first.process.send_signal(how)
    first.end()
    broker.produce(topic3, [b"while it was away"] * 5, partition=1)
    second = start(keys, topic3)
    wait_until_committed(broker, keys, topic3, 3)
    assert second.stop() == 0
    assert [line["offset"] for line in second.lines if line["partition"] == 1] == [1, 2, 3, 4, 5]


def test_a_partition_that_is_added_is_read_from_its_first_message(broker: Broker, topic: str, start: Start) -> None:
    run = start(settings(broker, {"auto.offset.reset": "latest", "topic.metadata.refresh.interval.ms": "1000"}), topic)
    run.wait_for_words("waits for new messages")
    wait(broker.admin.create_partitions([NewPartitions(topic, 2)]))
    broker.produce(topic, [b"x"] * 5, partition=1)
    run.wait_for_lines(5)
    assert run.stop() == 0
    assert [line["offset"] for line in run.lines] == list(range(5))


def test_two_signals_at_once_end_it_without_a_traceback(broker: Broker, topic: str, start: Start) -> None:
    broker.produce(topic, [b"x"])
    run = start(settings(broker), topic)
    run.wait_for_lines(1)
    run.process.send_signal(signal.SIGTERM)
    run.process.send_signal(signal.SIGINT)
    with seconds_at_most(2):
        assert run.end() in (0, -signal.SIGTERM, -signal.SIGINT)
    assert "Traceback" not in run.stderr


@PROTOCOLS
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_stopped_again_and_again_each_message_is_printed_once(
    broker: Broker, topic3: str, start: Start, how: int, protocol: Keys
) -> None:
    broker.produce(topic3, (b"x" * 1000 for _ in range(60_000)))
    keys = settings(broker, protocol)
    runs = []
    for _ in range(4):
        runs.append(start(keys, topic3))
        runs[-1].wait_for_lines(1)
        with seconds_at_most(2):
            assert runs[-1].stop(how) == 0
        assert "Traceback" not in runs[-1].stderr
    runs.append(start(keys, topic3))
    runs[-1].wait_for(lambda _: sum(run.stdout.count("\n") for run in runs) >= 60_000)
    assert runs[-1].stop(how) == 0
    assert offsets(runs) == Counter(all_of(broker, topic3, 3))


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


def test_the_second_ctrl_c_ends_it_while_a_dead_broker_holds_up_the_goodbye(own_broker: Broker, start: Start) -> None:
    topic = own_broker.create_topic("tron.goodbye")
    own_broker.produce(topic, [b"x"] * 10)
    run = start(settings(own_broker, {**NEW_PROTOCOL, "auto.commit.interval.ms": "60000"}), topic)
    run.wait_for_lines(10)
    own_broker.stop(signal.SIGKILL)
    run.process.send_signal(signal.SIGINT)
    time.sleep(1)
    assert run.process.poll() is None  # it waits for the coordinator
    with seconds_at_most(1):
        assert run.stop() == -signal.SIGINT
    assert "Traceback" not in run.stderr


# ---- the group -----------------------------------------------------------------------------------------------------


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
        run.wait_for_words("partitions, group")
    flow(3)
    runs.append(start(keys, topic3))
    flow(5)
    runs[0].kill()
    flow(4)
    assert runs[1].stop(signal.SIGTERM) == 0
    runs.append(start(keys, topic3))
    flow(4)
    wait_until_committed(broker, keys, topic3, 3)
    assert set(offsets(runs)) == all_of(broker, topic3, 3)
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
    second.wait_for_words("of 1 partitions")
    assert first.stop() == 0
    broker.produce(topic, [b"y"])
    second.wait_for_lines(1)
    assert second.stop() == 0
    assert offsets([first, second]) == {(0, 0): 1, (0, 1): 1}


# ---- the reader ----------------------------------------------------------------------------------------------------


@PROTOCOLS
def test_a_reader_that_stalls_for_longer_than_max_poll_interval(
    broker: Broker, topic: str, start: Start, protocol: Keys
) -> None:
    broker.produce(topic, [b"x" * 10_000] * 500)
    keys = settings(broker, {"max.poll.interval.ms": "6000", **protocol})
    run = start(keys, topic, stdout=subprocess.PIPE)
    time.sleep(9)
    lines = 0
    assert run.process.stdout is not None
    printed: Counter[int] = Counter()
    while len(printed) < 500:
        printed[parse(run.process.stdout.readline().decode())[0]["offset"]] += 1
        lines += 1
        assert lines < 2000
    broker.produce(topic, [b"more"])
    while len(printed) < 501:
        printed[parse(run.process.stdout.readline().decode())[0]["offset"]] += 1
    assert set(printed) == set(range(501))
    run.process.stdout.close()
    assert run.stop() == 0
    assert "max.poll.interval.ms" in run.stderr
    assert run.stderr.count("warning") == 1


def test_a_reader_that_stands_still_does_not_hold_up_sigterm(broker: Broker, topic: str, start: Start) -> None:
    broker.produce(topic, [b"x" * 10_000] * 1000)
    keys = settings(broker)
    run = start(keys, topic, stdout=subprocess.PIPE)
    run.wait_for_words("partitions, group")
    time.sleep(1)
    with seconds_at_most(2):
        assert run.stop(signal.SIGTERM) == 1
    assert "error: standard output is blocked" in run.stderr
    assert "Traceback" not in run.stderr
    assert run.process.stdout is not None
    printed = {json.loads(line)["offset"] for line in run.process.stdout.read().split(b"\n")[:-1]}
    rest = start(keys, topic)
    wait_until_committed(broker, keys, topic, 1)
    assert rest.stop() == 0
    assert printed | {line["offset"] for line in rest.lines} == set(range(1000))


def command(directory: Any, keys: dict[str, str], topic: str) -> str:
    """Write the INI and return the command that reads the topic."""
    return f"{sys.executable} {SCRIPT} --topic {topic} --config {write_config(directory / 'config.ini', keys)}"


def test_disk_full(broker: Broker, topic: str, start: Start, tmp_path: Any) -> None:
    broker.produce(topic, [b"%d" % n for n in range(100)])
    keys = settings(broker)
    ended = shell(f"{command(tmp_path, keys, topic)} > /dev/full", tmp_path)
    assert ended.returncode == 1
    errors = [line for line in ended.stderr.splitlines() if "error" in line.lower()]
    assert errors == ["error: standard output: No space left on device"]
    assert "Traceback" not in ended.stderr
    assert "Exception ignored" not in ended.stderr
    assert broker.committed(keys["group.id"], topic) == [-1001]
    run = start(keys, topic, "--max-messages", "100")
    assert run.end() == 0
    assert [line["offset"] for line in run.lines] == list(range(100))


def test_standard_output_closed(broker: Broker, topic: str, tmp_path: Any) -> None:
    broker.produce(topic, [b"x"] * 10)
    keys = settings(broker)
    ended = shell(f"{command(tmp_path, keys, topic)} >&-", tmp_path)
    assert (ended.returncode, ended.stderr) == (1, "error: standard output is closed\n")
    assert broker.committed(keys["group.id"], topic) == [-1001]


def test_standard_error_closed(broker: Broker, topic: str, tmp_path: Any) -> None:
    broker.produce(topic, [b"x"] * 10)
    ended = shell(f"{command(tmp_path, settings(broker), topic)} --max-messages 10 2>&-", tmp_path)
    assert ended.returncode == 0
    assert [line["offset"] for line in parse(ended.stdout)] == list(range(10))


def test_a_half_line_that_cannot_be_ended_is_an_error(broker: Broker, topic: str, tmp_path: Any) -> None:
    output = tmp_path / "ended.stdout.jsonl"
    output.write_bytes(b"x" * 1024)
    limited = f"ulimit -f 1; trap '' XFSZ; {command(tmp_path, settings(broker), topic)} >> {output}"
    ended = shell(limited, tmp_path)
    assert ended.returncode == 1
    assert "error: standard output: " in ended.stderr


def test_reader_gone(broker: Broker, topic: str, tmp_path: Any) -> None:
    broker.produce(topic, [b"x" * 1000] * 10_000)
    with seconds_at_most(5):
        ended = shell(f"{command(tmp_path, settings(broker), topic)} --quiet | head -n 3", tmp_path)
    assert ended.returncode == 0
    assert [line["offset"] for line in parse(ended.stdout)] == [0, 1, 2]
    assert ended.stderr == ""


def test_reader_gone_while_no_message_comes(broker: Broker, topic: str, tmp_path: Any) -> None:
    broker.produce(topic, [b"x"] * 3)
    with seconds_at_most(5):
        ended = shell(f"{command(tmp_path, settings(broker), topic)} --quiet | head -n 3", tmp_path)
    assert (ended.returncode, ended.stdout.count("\n"), ended.stderr) == (0, 3, "")


def test_reader_of_both_outputs_gone(broker: Broker, topic: str, tmp_path: Any) -> None:
    broker.produce(topic, [b"x" * 1000] * 10_000)
    ended = shell(f"{command(tmp_path, settings(broker), topic)} 2>&1 | head -n 3", tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_half_line_left_by_a_kill_is_not_continued(broker: Broker, topic: str, tmp_path: Any) -> None:
    broker.produce(topic, [b"x"])
    output = tmp_path / "ended.stdout.jsonl"
    output.write_text('{"partition": 0, "off')
    ended = shell(f"{command(tmp_path, settings(broker), topic)} --max-messages 1 >> {output}", tmp_path)
    assert ended.returncode == 0
    assert output.read_text() == '{"partition": 0, "off\n{"partition": 0, "offset": 0, "value": "x"}\n'


# ---- the broker ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "protocol"),
    [(signal.SIGTERM, {}), (signal.SIGKILL, {}), (signal.SIGKILL, NEW_PROTOCOL)],
    ids=["stopped", "killed", "killed, new protocol"],
)
def test_the_broker_goes_for_ten_seconds(own_broker: Broker, start: Start, how: int, protocol: Keys) -> None:
    topic = own_broker.create_topic("tron.outage")
    own_broker.produce(topic, [b"before"] * 10)
    run = start(settings(own_broker, protocol), topic)
    run.wait_for_lines(10)
    own_broker.restart(how, pause=10)
    own_broker.produce(topic, [b"after"] * 10)
    run.wait_for_lines(20, 60)
    assert run.stop() == 0
    assert set(offsets([run])) == {(0, n) for n in range(20)}
    assert run.stderr.count("warning") == 1, run.stderr
    assert "error" not in run.stderr


def test_a_broker_that_hangs_holds_up_the_end_for_ten_seconds_at_most(own_broker: Broker, start: Start) -> None:
    topic = own_broker.create_topic("tron.hangs")
    own_broker.produce(topic, [b"x"])
    run = start(settings(own_broker, {"auto.commit.interval.ms": "60000"}), topic)
    run.wait_for_lines(1)
    assert own_broker.process is not None
    own_broker.process.send_signal(signal.SIGSTOP)
    with seconds_at_most(12):
        run.stop(signal.SIGTERM)
    own_broker.process.send_signal(signal.SIGCONT)
    assert "Traceback" not in run.stderr


def test_retention_deletes_what_was_not_yet_read(broker: Broker, topic: str, start: Start) -> None:
    broker.produce(topic, [b"x"] * 100)
    keys = settings(broker)
    assert start(keys, topic, "--max-messages", "10").end() == 0
    broker.delete_records(topic, before=50)
    run = start(keys, topic, "--max-messages", "50")
    assert run.end() == 0
    assert [line["offset"] for line in run.lines] == list(range(50, 100))
    warnings = [line for line in run.stderr.splitlines() if line.startswith("warning")]
    assert len(warnings) == 1
    assert "offset 10" in warnings[0]


def test_retention_with_auto_offset_reset_error_ends_it(broker: Broker, topic: str, start: Start) -> None:
    broker.produce(topic, [b"x"] * 100)
    keys = settings(broker)
    assert start(keys, topic, "--max-messages", "10").end() == 0
    broker.delete_records(topic, before=50)
    run = start({**keys, "auto.offset.reset": "error"}, topic)
    assert run.end() == 1
    assert "out of range" in run.stderr


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


def test_hostile_values_neither_stop_the_stream_nor_fill_the_memory(broker: Broker, topic: str, start: Start) -> None:
    bomb = lz4.frame.compress(bytes(230_000_000))
    assert len(bomb) < 1_000_000
    hostile = [bomb, consumer.LZ4_MAGIC + b"\xff" * 1000, lz4.frame.compress(b"cut short" * 9)[:-5]]
    broker.produce(topic, hostile * 30)
    run = start(settings(broker), topic, "--max-messages", "90")
    peak = 0
    while run.process.poll() is None:
        peak = max(peak, memory(run.process.pid))
        time.sleep(0.02)
    assert run.end() == 0
    assert len(run.lines) == 90
    assert all(line["encoding"] == "base64" for line in run.lines)
    assert run.stderr.count("warning") == 30
    assert peak < 400_000_000


def memory(pid: int) -> int:
    """Return the resident memory of a process in bytes, 0 where it has gone."""
    try:
        with open(f"/proc/{pid}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (FileNotFoundError, ProcessLookupError):
        return 0


# ---- what only a person can mend -----------------------------------------------------------------------------------


@pytest.mark.timeout(180)
def test_a_login_that_is_refused_for_good(own_broker: Broker, start: Start) -> None:
    topic = own_broker.create_topic("tron.login")
    own_broker.produce(topic, [b"x"])
    run = start(settings(own_broker), topic)
    run.wait_for_lines(1)
    own_broker.set_password("changed")
    own_broker.restart()
    assert run.end(60) == 1
    assert "sasl.password" in run.stderr
    assert run.stderr.count("error") == 1 + run.stderr.count("SASL authentication error")


@PROTOCOLS
def test_a_topic_that_is_deleted(broker: Broker, topic: str, start: Start, protocol: Keys) -> None:
    broker.produce(topic, [b"x"])
    run = start(settings(broker, protocol), topic)
    run.wait_for_lines(1)
    broker.delete_topic(topic)
    assert run.end(30) == 1
    assert f"there is no topic {topic}" in run.stderr


def test_a_topic_that_is_made_anew(broker: Broker, topic: str, start: Start) -> None:
    """Where the new topic is shorter than what was read of the old one, it begins anew, with a warning."""
    broker.produce(topic, [b"old"] * 100)
    run = start(settings(broker), topic)
    run.wait_for_lines(100)
    broker.delete_topic(topic)
    time.sleep(1)
    broker.create_topic(topic)
    broker.produce(topic, [b"new"] * 10)
    run.wait_for_lines(110, 60)
    assert [line["value"] for line in run.lines[100:]] == ["new"] * 10
    assert run.stop() == 0
    assert "deleted" in run.stderr


@PROTOCOLS
@pytest.mark.parametrize("resource", ["TOPIC", "GROUP"])
def test_an_authorisation_that_is_withdrawn(own_broker: Broker, start: Start, resource: str, protocol: Keys) -> None:
    topic = own_broker.create_topic("tron.withdrawn")
    own_broker.produce(topic, [b"x"])
    run = start(settings(own_broker, protocol), topic)
    run.wait_for_lines(1)
    own_broker.withdraw(ResourceType[resource], {"TOPIC": "tron.", "GROUP": USER}[resource])
    assert run.end(30) == 1
    assert "this user may not" in run.stderr
    assert "Traceback" not in run.stderr
