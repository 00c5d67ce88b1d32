"""What standard error tells of where the consumer stands."""

import json
import os
import re
import signal
import subprocess
import time

from harness.broker import Broker
from harness.process import Start
from harness.settings import PROTOCOLS, Keys, settings
from harness.terminal import Terminal

import consumer


def test_a_progress_line_on_a_terminal(broker: Broker, topic: str, start: Start, terminal: Terminal) -> None:
    broker.produce(topic, [b"x" * 100] * 500)
    keys = settings(broker)
    run = start(keys, topic, stderr=terminal.descriptor)
    terminal.wait_for(r"500 messages, \d+/s, \d+\.\d MB/s, lag 0, newest 0:00:\d\d old")
    broker.produce(topic, [b"x" * 100] * 500)
    terminal.wait_for(r"1000 messages, \d+/s, \d+\.\d MB/s, lag 0, newest 0:00:0\d old")
    assert len(terminal.screen()) == 2  # the line about the start, and one that is rewritten
    assert run.stop() == 0
    terminal.wait_for(r"stopped: .*\n")
    lines = terminal.screen()
    assert len(lines) == 4
    assert lines[0] == f"{topic}: 1 of 1 partitions, group {keys['group.id']}: starts at the beginning"
    assert lines[1].startswith("1000 messages")
    assert lines[2].startswith("stopped: 1000 messages")
    assert lines[3] == ""


def test_the_progress_line_fits_the_terminal(broker: Broker, topic: str, start: Start) -> None:
    broker.produce(topic, [b"x"])
    with Terminal(columns=20) as terminal:
        start(settings(broker), topic, stderr=terminal.descriptor)
        terminal.wait_for("1 messages.*\r")
        assert re.fullmatch(r"1 messages, \d/s, 0\.", terminal.screen()[-1])


def test_the_progress_line_is_cleared_before_a_warning(own_broker: Broker, start: Start, terminal: Terminal) -> None:
    topic = own_broker.create_topic("tron.clear")
    own_broker.produce(topic, [b"x"])
    run = start(settings(own_broker), topic, stderr=terminal.descriptor)
    terminal.wait_for("1 messages")
    own_broker.stop(signal.SIGKILL)
    terminal.wait_for("warning: ")
    terminal.wait_for(r"again until it works\r\n1 messages")
    assert re.search(r"\r\x1b\[Kwarning: ", terminal.text)
    assert any(line.startswith("warning: ") for line in terminal.screen())
    run.kill()


def test_no_progress_among_the_messages(broker: Broker, topic: str, start: Start, terminal: Terminal) -> None:
    broker.produce(topic, [b"x"])
    run = start(settings(broker), topic, stdout=terminal.descriptor, stderr=terminal.descriptor)
    terminal.wait_for('"value"')
    time.sleep(2)  # in which a progress line would come
    assert run.stop() == 0
    terminal.wait_for(r"stopped: .*\n")
    lines = terminal.screen()
    assert len(lines) == 4  # start, message, end, and nothing
    assert json.loads(lines[1]) == {"partition": 0, "offset": 0, "value": "x"}
    assert lines[2].startswith("stopped: 1 messages")


def test_a_line_a_minute_in_a_log(broker: Broker, topic: str, start: Start) -> None:
    assert consumer.LOG_SECONDS == 60.0
    broker.produce(topic, [b"x"] * 10)
    run = start(settings(broker), topic, constants={"LOG_SECONDS": 2.0})
    run.wait_for(lambda run: run.stderr.count("\n") == 3)
    for line, speed in zip(run.stderr.splitlines()[1:], ("5/s", "0/s")):
        assert re.fullmatch(
            rf"\d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d 10 messages, {speed}, "
            r"0\.0 MB/s, lag 0, newest 0:00:\d\d old",
            line,
        )
    assert run.stop() == 0
    assert run.stderr.count("\n") == 4


def test_quiet_leaves_warnings_and_errors(broker: Broker, topic: str, start: Start, terminal: Terminal) -> None:
    broker.produce(topic, [b"x"])
    keys = settings(broker)
    assert start(keys, topic, "--quiet", "--max-messages", "1").end() == 0
    broker.delete_records(topic, before=1)
    run = start(keys, topic, "--quiet", "--from", "beginning", stderr=terminal.descriptor)
    broker.produce(topic, [b"y"])
    run.wait_for_lines(1)
    time.sleep(2)  # in which a progress line would come
    assert run.stop() == 0
    assert terminal.text == ""
    run = start({**keys, "sasl.password": "wrong"}, topic, "--quiet")
    assert run.end() == 1
    assert run.stderr.startswith("error: ")


@PROTOCOLS
def test_the_lag_of_all_partitions_goes_to_zero(
    broker: Broker, topic3: str, start: Start, terminal: Terminal, protocol: Keys
) -> None:
    for partition in range(3):
        broker.produce(topic3, [b"x" * 1000] * 2000, partition=partition)
    run = start(settings(broker, protocol), topic3, stdout=subprocess.PIPE, stderr=terminal.descriptor)
    assert run.process.stdout is not None
    lines = 0
    while lines < 6000 and not re.search(r"lag [1-9]\d{2,}", terminal.text):
        lines += os.read(run.process.stdout.fileno(), 65536).count(b"\n")
        time.sleep(0.05)  # a slow reader: the lag is seen to be large first
    printed, lag = re.findall(r"(\d+) messages, .*?lag (\d+)", terminal.text)[0]
    assert int(printed) + int(lag) == 6000
    while lines < 6000:
        lines += os.read(run.process.stdout.fileno(), 65536).count(b"\n")
    terminal.wait_for(r"6000 messages, .*?lag 0,")
    assert run.stop() == 0


def test_the_summary_of_a_run(broker: Broker, topic3: str, start: Start) -> None:
    for partition in range(3):
        broker.produce(topic3, [b"x"] * 10, partition=partition)
    keys = settings(broker)
    run = start(keys, topic3, "--max-messages", "30")
    assert run.end() == 0
    assert re.search(r"^stopped: 30 messages in 0:00:0\d, offsets 0 to 9 in 3 partitions, lag 0$", run.stderr, re.M)
    run = start({**keys, "auto.offset.reset": "latest"}, topic3)
    run.wait_for_words("resumes")
    assert run.stop() == 0
    assert re.search(r"^stopped: 0 messages in 0:00:0\d, lag 0$", run.stderr, re.M)


def test_a_new_group_tells_whether_it_waits_or_starts_at_the_beginning(
    broker: Broker, topic: str, start: Start
) -> None:
    for reset, words in (("latest", "waits for new messages"), ("earliest", "starts at the beginning")):
        keys = settings(broker, {"auto.offset.reset": reset})
        run = start(keys, topic)
        run.wait_for_words(f"{topic}: 1 of 1 partitions, group {keys['group.id']}: {words}")
        assert run.stop() == 0
