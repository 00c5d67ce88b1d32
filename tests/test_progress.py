"""What standard error tells of where the consumer stands."""

import json
import os
import re
import signal
import subprocess
import time

import pytest
from confluent_kafka import Producer
from harness.broker import Broker
from harness.mock_cluster import MockCluster
from harness.process import Start
from harness.settings import PROTOCOLS, Keys, settings
from harness.terminal import Terminal
from harness.words import RESUMES, WAITS

import consumer


def test_a_progress_line_on_a_terminal(broker: Broker, topic: str, start: Start, terminal: Terminal) -> None:
    broker.produce(topic, [b"x" * 100] * 500)
    keys = settings(broker)
    run = start(keys, topic, stderr=terminal.descriptor)
    terminal.wait_for(r"500 messages, \d+/s, \d+\.\d MB/s, lag 0, newest 0:00:\d\d old")
    broker.produce(topic, [b"x" * 100] * 500)
    terminal.wait_for(r"1000 messages, \d+/s, \d+\.\d MB/s, lag 0, newest 0:00:0\d old")
    assert len(terminal.screen()) == 3  # the lines about the start, and one that is rewritten
    assert run.stop() == 0
    terminal.wait_for(r"stopped: .*\n")
    lines = terminal.screen()
    assert len(lines) == 4
    assert lines[0] == f"{topic}: 1 partition, group {keys['group.id']}: starts at the beginning"
    assert lines[1] == f"{topic}: assigned 1 partition"
    assert lines[2].startswith("stopped: 1000 messages")
    assert lines[3] == ""
    assert terminal.text.count("\r") == terminal.text.count("\r\n") + terminal.text.count("\r\x1b[K")


def test_a_terminal_that_is_closed_ends_no_run(broker: Broker, topic: str, start: Start) -> None:
    """As at the end of a login, for what was started in the background there."""
    broker.produce(topic, [b"x"])
    with Terminal() as terminal:
        run = start(settings(broker), topic, stderr=terminal.descriptor)
        terminal.wait_for("1 message.*\r")
    time.sleep(1.5)  # for the next line
    broker.produce(topic, [b"y"])
    run.wait_for_lines(2)
    assert run.stop() == 0


def test_the_progress_line_fits_the_terminal(broker: Broker, topic: str, start: Start) -> None:
    broker.produce(topic, [b"x"])
    with Terminal(columns=20) as terminal:
        start(settings(broker), topic, stderr=terminal.descriptor)
        terminal.wait_for("1 message.*\r")
        assert re.fullmatch(r"1 message, \d/s, 0\.\d", terminal.screen()[-1])


@pytest.mark.parametrize("isolation", ["read_committed", "read_uncommitted"])
def test_the_marker_of_a_transaction_is_no_message_to_read(
    broker: Broker, topic: str, start: Start, isolation: str
) -> None:
    """It takes the offset behind the last message, and is never printed."""
    producer = Producer({"bootstrap.servers": broker.address("PLAINTEXT"), "transactional.id": topic})
    producer.init_transactions()
    constants = {"LOG_SECONDS": 1.0, "LOOK_SECONDS": 1.0}
    run = start(settings(broker, {"isolation.level": isolation}), topic, constants=constants)
    for end in (producer.commit_transaction, producer.abort_transaction):
        producer.begin_transaction()
        for _ in range(5):
            producer.produce(topic, b"x")
        producer.flush()
        end()
    run.wait_for(lambda run: re.search(r"[1-9]\d* messages.* lag 0,.*\n\Z", run.stderr))
    shown = run.stderr.count(" lag ")
    run.wait_for(lambda run: run.stderr.count(" lag ") >= shown + 4)  # in which there are two looks at least
    assert run.stop() == 0
    assert "stands still" not in run.stderr


def test_a_warning_is_written_over_the_progress_line(
    own_broker: Broker, own_topic: str, start: Start, terminal: Terminal
) -> None:
    own_broker.produce(own_topic, [b"x"])
    run = start(settings(own_broker), own_topic, stderr=terminal.descriptor)
    terminal.wait_for("1 message")
    own_broker.stop(signal.SIGKILL)
    terminal.wait_for(r"again until it works\r\n(\x1b\[K)+1 message")
    assert re.search(r"\r\x1b\[Kwarning: ", terminal.text)
    time.sleep(7)  # in which librdkafka reports it all the time
    warnings = [line for line in terminal.screen() if line.startswith("warning: ")]
    assert 1 <= len(warnings) <= 3, warnings  # a lost connection, all brokers down, a commit: each once
    run.kill()


def test_nothing_is_rewritten_where_the_reader_of_a_pipe_writes_to_the_same_terminal(
    broker: Broker, topic: str, start: Start, terminal: Terminal
) -> None:
    broker.produce(topic, [b"x"])
    keys = settings(broker)
    run = start(keys, topic, stdout=subprocess.PIPE, stderr=terminal.descriptor, constants={"LOG_SECONDS": 1.0})
    terminal.wait_for(r"\d\d:\d\d 1 message, .*\n")
    run.kill()
    assert terminal.text.count("\r") == terminal.text.count("\r\n")


def test_no_progress_among_the_messages(broker: Broker, topic: str, start: Start, terminal: Terminal) -> None:
    broker.produce(topic, [b"x"])
    run = start(settings(broker), topic, stdout=terminal.descriptor, stderr=terminal.descriptor)
    terminal.wait_for('"value"')
    time.sleep(2)  # in which a progress line would come
    assert run.stop() == 0
    terminal.wait_for(r"stopped: .*\n")
    lines = terminal.screen()
    assert len(lines) == 5  # start, message and assignment, end, and nothing
    assert [json.loads(line) for line in lines if line.startswith("{")] == [{"partition": 0, "offset": 0, "value": "x"}]
    assert lines[3].startswith("stopped: 1 message")


def test_a_line_a_minute_in_a_log(broker: Broker, topic: str, start: Start) -> None:
    assert consumer.LOG_SECONDS == 60.0
    broker.produce(topic, [b"x"] * 10)
    run = start(settings(broker), topic, constants={"LOG_SECONDS": 2.0})
    run.wait_for(lambda run: run.stderr.count("\n") == 4)
    for line, speed in zip(run.stderr.splitlines()[2:], ("5/s", "0/s")):
        assert re.fullmatch(
            rf"\d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d 10 messages, {speed}, "
            r"0\.0 MB/s, lag 0, newest 0:00:\d\d old",
            line,
        )
    assert run.stop() == 0
    assert run.stderr.count("\n") == 5


def test_speed_and_age_are_those_of_the_messages(broker: Broker, topic3: str, start: Start) -> None:
    hours_ago = [int(time.time() * 1000) - hours * 3_600_000 for hours in (1, 2, 2)]
    for partition, timestamp in enumerate(hours_ago):
        for _ in range(700):
            broker.producer.produce(topic3, b"x" * 9956, partition=partition, timestamp=timestamp)
    assert broker.producer.flush(30) == 0
    run = start(settings(broker), topic3, constants={"LOG_SECONDS": 1.0})
    run.wait_for(lambda run: re.search(r"2100 messages, .* old\n", run.stderr))
    assert re.search(r"messages, .*, newest 1:0\d:\d\d old", run.stderr)  # of those since the line before
    speeds = re.findall(r"messages, (\d+)/s, (\d+\.\d) MB/s", run.stderr)
    assert any(float(megabytes) > 0 for _, megabytes in speeds)
    for messages, megabytes in speeds:
        assert float(megabytes) == pytest.approx(int(messages) * 0.01, abs=0.06)  # lines of 10,000 bytes
    broker.producer.produce(topic3, b"x", partition=0, timestamp=hours_ago[1])
    run.wait_for(lambda run: re.search(r"2101 messages, .* newest 2:0\d:\d\d old\n", run.stderr))
    assert run.stop() == 0


def test_quiet_leaves_warnings_and_errors(broker: Broker, topic: str, start: Start, terminal: Terminal) -> None:
    broker.produce(topic, [b"x"])
    keys = settings(broker)
    run = start(keys, topic, "--quiet", "--from", "beginning", stderr=terminal.descriptor)
    broker.produce(topic, [b"y"])
    run.wait_for_lines(1)
    time.sleep(2)  # in which a progress line would come
    assert run.stop() == 0
    assert terminal.text == ""
    broker.produce(topic, [b"z"] * 2)
    broker.delete_records(topic, before=3)
    run = start(keys, topic, "--quiet", "--max-messages", "1")
    assert run.end() == 0
    assert re.fullmatch("warning: messages were deleted before they were read.*\n", run.stderr)
    run = start({**keys, "sasl.password": "wrong"}, topic, "--quiet")
    assert run.end() == 1
    assert run.stderr.startswith("error: ")


@PROTOCOLS
def test_the_lag_of_all_partitions_goes_to_zero(broker: Broker, topic3: str, start: Start, protocol: Keys) -> None:
    for partition in range(3):
        broker.produce(topic3, [b"x" * 1000] * 2000, partition=partition)
    run = start(settings(broker, protocol), topic3, stdout=subprocess.PIPE, constants={"LOG_SECONDS": 1.0})
    assert run.process.stdout is not None
    lines = 0
    deadline = time.monotonic() + 30
    while not re.search(r"lag [1-9]\d{2,}", run.stderr):  # a slow reader: the lag is seen to be large first
        assert time.monotonic() < deadline, run.stderr
        lines += os.read(run.process.stdout.fileno(), 65536).count(b"\n")
        time.sleep(0.05)
    printed, lag = re.findall(r"(\d+) messages, .*?lag (\d+)", run.stderr)[0]
    assert 6000 - int(printed) <= int(lag) <= 6000  # it is up to a second old
    while lines < 6000:
        lines += os.read(run.process.stdout.fileno(), 65536).count(b"\n")
    run.wait_for(lambda run: re.search(r"6000 messages, .*?lag 0,", run.stderr))
    assert run.stop() == 0


def test_the_summary_of_a_run(broker: Broker, topic3: str, start: Start) -> None:
    for partition in range(3):
        broker.produce(topic3, [b"x"] * 10, partition=partition)
    keys = settings(broker)
    run = start(keys, topic3, "--max-messages", "30")
    assert run.end() == 0
    assert re.search(r"^stopped: 30 messages in 0:00:0\d$", run.stderr, re.M)
    run = start({**keys, "auto.offset.reset": "latest"}, topic3)
    run.wait_for_words(RESUMES)
    time.sleep(1)  # until the first fetch has told where the partitions end
    assert run.stop() == 0
    assert re.search(r"^stopped: 0 messages in 0:00:0\d$", run.stderr, re.M)


def test_the_summary_is_of_this_run(broker: Broker, topic: str, start: Start) -> None:
    broker.produce(topic, [b"x"] * 20)
    keys = settings(broker)
    assert start(keys, topic, "--max-messages", "10").end() == 0
    run = start(keys, topic, "--max-messages", "10")
    assert run.end() == 0
    assert re.search(r"^stopped: 10 messages in 0:00:\d\d$", run.stderr, re.M)


def test_what_retention_has_deleted_is_no_lag(broker: Broker, topic: str, start: Start) -> None:
    broker.produce(topic, [b"x"] * 100)
    keys = settings(broker)
    run = start(keys, topic, "--max-messages", "10")
    assert run.end() == 0
    broker.delete_records(topic, before=100)
    run = start(keys, topic, constants={"LOG_SECONDS": 0.5})
    run.wait_for(lambda run: re.search(r"lag \d", run.stderr))
    assert re.findall(r"lag (\d+)", run.stderr)[0] == "0"
    assert run.stop() == 0


def test_deleted_messages_are_told_whatever_log_level_says(broker: Broker, topic: str, start: Start) -> None:
    broker.produce(topic, [b"x"] * 10)
    keys = settings(broker, {"log_level": "3"})
    assert start(keys, topic, "--max-messages", "1").end() == 0
    broker.delete_records(topic, before=5)
    run = start(keys, topic, "--max-messages", "1")
    assert run.end() == 0
    assert "warning: messages were deleted before they were read" in run.stderr


def test_five_hundred_partitions_make_no_line_of_five_hundred(start: Start) -> None:
    with MockCluster() as mock:
        topic = mock.create_topic("tron.wide", 500)
        mock.produce(topic, [b"x"], [499])
        keys = {"bootstrap.servers": mock.address, "security.protocol": "plaintext", "group.id": "wide"}
        run = start(keys, topic, "--from", "beginning", "--max-messages", "1")
        assert run.end() == 0, run.stderr
    assert len(run.lines) == 1
    assert "assigned 500 partitions" in run.stderr
    assert max(map(len, run.stderr.splitlines())) < 120


def test_a_new_group_tells_whether_it_waits_or_starts_at_the_beginning(
    broker: Broker, topic: str, start: Start
) -> None:
    waits, begins = WAITS, "starts at the beginning"
    for reset, words in ((None, waits), ("latest", waits), ("earliest", begins)):
        keys = settings(broker, {"auto.offset.reset": reset})
        run = start(keys, topic)
        run.wait_for_words(f"{topic}: 1 partition, group {keys['group.id']}: {words}")
        assert run.stop() == 0
