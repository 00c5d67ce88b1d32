"""Files and pipes: what becomes of a message whose line cannot be written, or is not read."""

import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import lz4.frame
import pytest
from harness.broker import Broker
from harness.environment import SCRIPT
from harness.process import Start, parse, peak_memory, seconds_at_most, shell, wait_until_full
from harness.settings import PROTOCOLS, Keys, settings, write_config
from harness.terminal import Terminal
from harness.words import ASSIGNED, BLOCKED, GREETING

import consumer


@PROTOCOLS
def test_a_reader_that_stalls_for_longer_than_max_poll_interval(
    broker: Broker, topic: str, start: Start, protocol: Keys
) -> None:
    """The group goes on without it, and it joins again; the next stall, after a while, is news again."""
    assert consumer.QUIET_SECONDS == 60
    quick = {} if protocol else {"session.timeout.ms": "1500", "heartbeat.interval.ms": "300"}
    keys = {**settings(broker, {"max.poll.interval.ms": "2000", **protocol}), **quick}
    run = start(keys, topic, stdout=subprocess.PIPE, constants={"QUIET_SECONDS": 2.0})
    run.wait_for_words(ASSIGNED)
    assert run.process.stdout is not None
    printed: Counter[int] = Counter()
    for count in (500, 1000):
        broker.produce(topic, [b"x" * 10_000] * 500)
        time.sleep(4)
        while len(printed) < count:
            printed[parse(run.process.stdout.readline().decode())[0]["offset"]] += 1
            assert printed.total() < 2 * count + 1000
    run.wait_for(
        lambda run: run.stderr.count("warning: output blocked, or machine asleep, for max.poll.interval.ms") == 2
    )
    assert set(printed) == set(range(1000))
    run.process.stdout.close()
    assert run.stop() == 0
    assert run.stderr.count("warning") == 2


@pytest.mark.skipif(sys.platform != "linux", reason="a pipe's size cannot be set")
def test_a_pipe_holds_what_the_reader_works_on(broker: Broker, topic: str, start: Start) -> None:
    broker.produce(topic, [b"x"])
    run = start(settings(broker), topic, "--max-messages", "1", stdout=subprocess.PIPE)
    assert run.end() == 0
    assert run.process.stdout is not None
    assert fcntl.fcntl(run.process.stdout, fcntl.F_GETPIPE_SZ) == consumer.PIPE_BYTES == 256 * 1024


def test_a_slow_reader_gets_the_write_in_hand_and_no_more(broker: Broker, topic: str, start: Start) -> None:
    broker.produce(topic, [lz4.frame.compress(b"x" * 1_500_000)] * 100)  # a batch, and each line a write
    keys = settings(broker)
    run = start(keys, topic, stdout=subprocess.PIPE)
    assert run.process.stdout is not None
    pipe, output = run.process.stdout.fileno(), b""
    while output.count(b"\n") < 3:
        output += os.read(pipe, 65536)
    run.process.send_signal(signal.SIGTERM)  # in the fourth, of which the pipe holds but a part
    while piece := os.read(pipe, 65536):
        output += piece
        time.sleep(len(piece) / 2_500_000)
    assert run.end() == 0, run.stderr
    assert [line["offset"] for line in parse(output.decode())] == [0, 1, 2, 3]
    assert re.search(r"^stopped: 4 messages in 0:00:\d\d$", run.stderr, re.M)
    rest = start(keys, topic, "--max-messages", "1")
    assert rest.end() == 0
    assert rest.lines[0]["offset"] == 4


@pytest.mark.parametrize("in_mid_run", [False, True], ids=["from the start", "in mid-run"])
def test_a_pipe_that_was_made_non_blocking(broker: Broker, topic: str, start: Start, in_mid_run: bool) -> None:
    broker.produce(topic, [b"x" * 10_000] * 200)
    reader, writer = os.pipe()
    os.set_blocking(writer, in_mid_run)
    run = start(settings(broker), topic, "--max-messages", "200", stdout=writer)
    with open(reader, encoding="utf-8") as pipe:
        wait_until_full(reader)
        os.set_blocking(writer, False)  # as another program may that shares it
        os.close(writer)
        printed = parse(pipe.read())
    assert run.end() == 0, run.stderr
    assert [line["offset"] for line in printed] == list(range(200))


def test_a_reader_that_stands_still_does_not_hold_up_sigterm(broker: Broker, topic: str, start: Start) -> None:
    broker.produce(topic, [b"x" * 10_000] * 1000)
    keys = settings(broker)
    run = start(keys, topic, stdout=subprocess.PIPE)
    wait_until_full(run.process.stdout)
    with seconds_at_most(7):
        assert run.stop(signal.SIGTERM) == 1
    assert BLOCKED in run.stderr
    assert "Traceback" not in run.stderr
    assert run.process.stdout is not None
    printed = {json.loads(line)["offset"] for line in run.process.stdout.read().split(b"\n")[:-1]}
    rest = start(keys, topic)
    broker.wait_until_committed(keys["group.id"], topic, 1)
    assert rest.stop() == 0
    assert printed | {line["offset"] for line in rest.lines} == set(range(1000))


@pytest.mark.skipif(sys.platform != "linux", reason="how much memory a process has is read from /proc")
def test_a_reader_that_stands_still_does_not_fill_the_memory(broker: Broker, topic: str, start: Start) -> None:
    broker.produce(topic, (os.urandom(10_000).hex().encode() for _ in range(3500)))  # 70 MB
    run = start(settings(broker), topic, stdout=subprocess.PIPE)
    run.wait_for_words(GREETING)
    time.sleep(4)
    assert 0 < peak_memory(run.process) < 70_000_000  # of which the interpreter, the libraries and the threads take 40
    run.kill()


def command(directory: Path, keys: dict[str, str], topic: str) -> str:
    """Write the INI and return the command that reads the topic."""
    return f"{sys.executable} {SCRIPT} --topic {topic} --config {write_config(directory / 'config.ini', keys)}"


def test_disk_full(broker: Broker, topic: str, start: Start, tmp_path: Path) -> None:
    broker.produce(topic, [b"%d" % n for n in range(100)])
    keys = settings(broker, {"enable.auto.offset.store": "true"})  # the script's own: the INI cannot change it
    ended = shell(f"{command(tmp_path, keys, topic)} > /dev/full", tmp_path)
    assert ended.returncode == 1
    errors = [line for line in ended.stderr.splitlines() if "error" in line.lower()]
    assert errors == ["error: standard output: No space left on device"]
    assert "stopped: 0 messages" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "Exception ignored" not in ended.stderr
    assert broker.committed(keys["group.id"], topic) == [-1001]
    run = start(keys, topic, "--max-messages", "100")
    assert run.end() == 0
    assert [line["offset"] for line in run.lines] == list(range(100))


@pytest.mark.parametrize("redirection", [">", ">>"])
def test_a_file_that_may_not_grow_further(
    broker: Broker, topic: str, start: Start, tmp_path: Path, redirection: str
) -> None:
    """The write that meets the limit is a partial one, and no error yet; no half line of it stays in the file."""
    broker.produce(topic, [b"x" * 100] * 100)
    keys = settings(broker)
    output = tmp_path / "limited.jsonl"
    output.write_text("before\n")
    limited = f"ulimit -f 4; trap '' XFSZ; {command(tmp_path, keys, topic)} --max-messages 100 {redirection} {output}"
    ended = shell(limited, tmp_path)
    assert ended.returncode == 1
    assert "error: standard output: File too large" in ended.stderr
    text = output.read_text().removeprefix("before\n")
    assert text == "" or text.endswith("\n")
    printed = parse(text)
    assert broker.committed(keys["group.id"], topic)[0] <= len(printed)
    rest = start(keys, topic)
    broker.wait_until_committed(keys["group.id"], topic, 1)
    assert rest.stop() == 0
    assert {line["offset"] for line in [*printed, *rest.lines]} == set(range(100))


def test_standard_output_closed(broker: Broker, topic: str, tmp_path: Path) -> None:
    broker.produce(topic, [b"x"] * 10)
    keys = settings(broker)
    ended = shell(f"{command(tmp_path, keys, topic)} >&-", tmp_path)
    assert (ended.returncode, ended.stderr) == (1, "error: standard output is closed\n")
    assert broker.committed(keys["group.id"], topic) == [-1001]


def test_standard_error_closed(broker: Broker, topic: str, tmp_path: Path) -> None:
    broker.produce(topic, [b"x"] * 10)
    ended = shell(f"{command(tmp_path, settings(broker), topic)} --max-messages 10 2>&-", tmp_path)
    assert ended.returncode == 0
    assert [line["offset"] for line in parse(ended.stdout)] == list(range(10))


def test_a_half_line_that_cannot_be_ended_is_an_error(broker: Broker, topic: str, tmp_path: Path) -> None:
    output = tmp_path / "ended.stdout.jsonl"
    output.write_bytes(b"x" * 1024)
    limited = f"ulimit -f 1; trap '' XFSZ; {command(tmp_path, settings(broker), topic)} >> {output}"
    ended = shell(limited, tmp_path)
    assert ended.returncode == 1
    assert "error: standard output: " in ended.stderr


def test_reader_gone(broker: Broker, topic: str, tmp_path: Path) -> None:
    broker.produce(topic, [b"x" * 1000] * 10_000)
    with seconds_at_most(10):
        ended = shell(f"{command(tmp_path, settings(broker), topic)} --quiet | head -n 3", tmp_path)
    assert ended.returncode == 0
    assert [line["offset"] for line in parse(ended.stdout)] == [0, 1, 2]
    assert ended.stderr == ""


def test_a_reader_of_both_outputs_that_stands_still_does_not_hold_up_sigterm(
    broker: Broker, topic: str, start: Start
) -> None:
    broker.produce(topic, [b"x" * 10_000] * 100)
    run = start(settings(broker), topic, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0)
    assert run.process.stdout is not None
    assert GREETING.encode() in run.process.stdout.readline()
    wait_until_full(run.process.stdout)
    with seconds_at_most(10):
        assert run.stop(signal.SIGTERM) == 1


def test_a_socket_as_standard_output(broker: Broker, topic: str, start: Start) -> None:
    broker.produce(topic, [b"x"] * 3)
    ours, theirs = socket.socketpair()
    with ours:
        run = start(settings(broker), topic, stdout=theirs)
        theirs.close()
        with ours.makefile(encoding="utf-8") as reader:
            assert [json.loads(reader.readline())["offset"] for _ in range(3)] == [0, 1, 2]
    assert run.end() == 0  # also of a quiet topic
    assert "error" not in run.stderr


def test_reader_gone_of_a_quiet_topic(broker: Broker, topic: str, tmp_path: Path) -> None:
    """The prompt comes back without a further message, as with `tail -f`."""
    broker.produce(topic, [b"x"] * 3)
    with seconds_at_most(10):
        ended = shell(f"{command(tmp_path, settings(broker), topic)} --quiet | head -n 3", tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert [line["offset"] for line in parse(ended.stdout)] == [0, 1, 2]


def test_reader_of_both_outputs_gone(broker: Broker, topic: str, tmp_path: Path) -> None:
    broker.produce(topic, [b"x" * 1000] * 10_000)
    ended = shell(f"{command(tmp_path, settings(broker), topic)} 2>&1 | head -n 3", tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize("mode", [0o600, 0o200], ids=["", "in a file that it may not read"])
def test_a_half_line_left_by_a_kill_is_not_continued(broker: Broker, topic: str, tmp_path: Path, mode: int) -> None:
    broker.produce(topic, [b"x"])
    output = tmp_path / "ended.stdout.jsonl"
    output.write_text('{"partition": 0, "off')
    output.chmod(mode)
    as_owner = "setpriv --bounding-set=-all" if os.geteuid() == 0 else ""  # root may read everything
    ended = shell(f"{as_owner} {command(tmp_path, settings(broker), topic)} --max-messages 1 >> {output}", tmp_path)
    assert ended.returncode == 0
    output.chmod(0o600)
    assert output.read_text() == '{"partition": 0, "off\n{"partition": 0, "offset": 0, "value": "x"}\n'


def test_a_terminal_is_sent_no_character_that_it_might_obey(
    broker: Broker, topic: str, start: Start, terminal: Terminal
) -> None:
    """The JSON value stays the same."""
    text = "".join(map(chr, range(0xA1))) + 'ü \\ \x9b31m "'
    broker.produce(topic, [text.encode()])
    run = start(settings(broker), topic, "--max-messages", "1", stdout=terminal.descriptor)
    assert run.end() == 0
    line = terminal.wait_for(r"\{.*\}\r\n")[0]
    assert json.loads(line)["value"] == text
    assert not re.search("[\x00-\x1f\x7f-\x9f]", line.rstrip("\r\n"))
    run = start(settings(broker), topic, "--max-messages", "1")
    assert run.end() == 0
    assert "\x9b" in run.stdout  # elsewhere they are as they were
