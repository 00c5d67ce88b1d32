"""Ctrl-C, SIGTERM and the clock: the first signal stops in order, the second at once, wherever it comes."""

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from harness.broker import Broker
from harness.environment import SCRIPT, user_environment
from harness.process import Run, Start, seconds_at_most, wait_until_full, with_client
from harness.settings import settings, write_config
from harness.words import ASSIGNED

BOTH = pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
UNREACHABLE = {"bootstrap.servers": "127.0.0.1:1", "group.id": "g"}


@BOTH
def test_a_second_signal_ends_at_once_however_soon_it_comes(broker: Broker, topic: str, start: Start, how: int) -> None:
    broker.produce(topic, [b"x" * 10_000] * 1000)
    run = start(settings(broker), topic, stdout=subprocess.PIPE)
    wait_until_full(run.process.stdout)  # it hangs in a write
    with seconds_at_most(2):
        run.process.send_signal(how)
        time.sleep(0.3)  # for the first one to be heard by then
        assert run.stop(how) == -how


@BOTH
def test_a_second_signal_ends_process_1_of_a_container(broker: Broker, topic: str, tmp_path: Path, how: int) -> None:
    """There the kernel ignores a signal whose action is the default one."""
    broker.produce(topic, [b"x" * 10_000] * 1000)
    config = write_config(tmp_path / "config.ini", settings(broker))
    command = [sys.executable, str(SCRIPT), "--config", str(config), "--topic", topic]
    namespace = ["unshare", "--fork", "--pid", "--mount-proc"]
    if subprocess.run([*namespace, "true"], capture_output=True).returncode:
        pytest.skip("no namespace of processes can be made")
    with subprocess.Popen(
        [*namespace, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=user_environment()
    ) as outer:
        wait_until_full(outer.stdout)
        (script,) = psutil.Process(outer.pid).children()
        with seconds_at_most(2):
            script.send_signal(how)
            time.sleep(0.3)  # for the first one to be heard by then
            script.send_signal(how)
            assert outer.wait(10) in (128 + how, -how)


@pytest.mark.parametrize("seconds", [0, 0.05, 0.1, 0.2, 0.3, 0.5])
def test_ctrl_c_gives_no_traceback_from_the_first_line_on(tmp_path: Path, seconds: float) -> None:
    """Before that line Python has its own handler, which gives one."""
    program = f"""if True:
        import pathlib, runpy, signal, sys
        really = signal.signal
        def noting(*arguments):
            really(*arguments)
            if "confluent_kafka" not in sys.modules:  # which takes the longest to import
                pathlib.Path("set").touch()
        signal.signal = noting
        runpy.run_path({str(SCRIPT)!r}, run_name="__main__")
    """
    command = [sys.executable, "-c", program]
    with socket.create_server(("127.0.0.1", 0)) as silent:  # what connects to it waits for ten seconds
        keys = {**UNREACHABLE, "bootstrap.servers": f"127.0.0.1:{silent.getsockname()[1]}"}
        config = write_config(tmp_path / "config.ini", keys)
        run = Run(tmp_path, ["--config", str(config), "--topic", "t"], command=command, cwd=tmp_path)
        run.wait_for(lambda _: (tmp_path / "set").exists())
        time.sleep(seconds)
        assert run.stop(signal.SIGINT) in (0, -signal.SIGINT), run.stderr
    assert "Traceback" not in run.stderr


def test_ctrl_c_while_the_ini_comes_from_a_pipe_ends_as_by_a_signal(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.ini")
    run = Run(tmp_path, ["--config", str(tmp_path / "config.ini"), "--topic", "t"])
    time.sleep(1)
    assert run.stop(signal.SIGINT) == -signal.SIGINT
    assert run.stderr == ""


def test_sigint_that_the_parent_ignores_stays_ignored(tmp_path: Path) -> None:
    """As `consumer.py … &` in a script has it."""
    config = write_config(tmp_path / "config.ini", UNREACHABLE)
    run = Run(
        tmp_path,
        ["--config", str(config), "--topic", "t"],
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    time.sleep(1)
    run.process.send_signal(signal.SIGINT)
    assert run.end() == 1
    assert "no connection to 127.0.0.1:1" in run.stderr


def test_a_clock_that_is_set_back_ends_the_run(broker: Broker, topic: str, start: Start) -> None:
    """librdkafka waits by that clock, so heartbeats and commits would stop for so long."""
    turned = with_client("""
            really = time.time
            def turned(really=really):
                return really() - (3600 if time.monotonic() - began > 5 else 0)
            time.time = turned""")
    run = start(settings(broker), topic, command=turned)
    run.wait_for_words(ASSIGNED)
    assert run.end(30) == 1
    assert run.stderr.count("error: ") == 1
    assert "error: the clock was set back by 3600 s" in run.stderr


def test_standard_error_that_nobody_reads_holds_up_no_message(broker: Broker, topic: str, start: Start) -> None:
    reader, writer = os.pipe()
    with contextlib.suppress(BlockingIOError):
        os.set_blocking(writer, False)
        while True:
            os.write(writer, b"x" * fcntl.fcntl(writer, fcntl.F_GETPIPE_SZ))
    os.set_blocking(writer, True)
    broker.produce(topic, [b"x"] * 100)
    run = start(settings(broker), topic, stderr=writer)
    run.wait_for_lines(100, 15)
    assert run.stop() == 0
    os.close(reader)
    os.close(writer)
