"""demo.py as a user runs it: in a terminal, in a pipe, stopped early and late, and without a network."""

import contextlib
import importlib.metadata
import json
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from harness.blocks import proto_block, proto_trades, transaction_block
from harness.environment import ROOT, user_environment
from harness.process import parse, seconds_at_most, shell
from harness.terminal import Terminal
from harness.words import GREETING
from solana.dex_block_message_pb2 import DexParsedBlockMessage
from tron.block_message_pb2 import BlockMessage

import consumer

CUT, WRAP = "\x1b[?7l", "\x1b[?7h"  # what a terminal does with lines that are too long
COMMAND = [sys.executable, str(ROOT / "tests" / "demo.py")]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SAMPLE = json.loads((ROOT / "tests" / "data" / "tron_transaction.json").read_text(encoding="utf-8"))


def shape(value: Any) -> Any:
    """Return a JSON value with its keys only."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items()}
    return [shape(inner) for inner in value] if isinstance(value, list) else None


def assert_is_a_block(text: str | bytes) -> None:
    """Check that it is JSON with the sample's keys, and that its transactions are shaped as some of the sample's."""
    block = shape(json.loads(text))
    sample = shape(SAMPLE)
    transactions = sample.pop("Transactions")
    assert all(transaction in transactions for transaction in block.pop("Transactions"))
    assert block == sample


def environment(directory: Path, **variables: str) -> dict[str, str]:
    """Return the variables for a demo whose temporary directory is in `directory`/tmp."""
    (directory / "tmp").mkdir(exist_ok=True)
    return user_environment(TMPDIR=str(directory / "tmp"), **variables)


class Demo:
    """The demo, started in a terminal with nothing else in it."""

    def __init__(self, directory: Path, terminal: Terminal) -> None:
        """Start the demo with `directory` as its current one."""
        self.directory = directory
        self.terminal = terminal
        self.process = terminal.start(COMMAND, cwd=directory, env=environment(directory))

    @property
    def lines(self) -> list[str]:
        """The whole lines on the screen, without the codes that have it cut them."""
        text = self.terminal.text.replace(WRAP, "").replace(CUT, "")
        return text[: text.rfind("\n") + 1].splitlines()

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The messages on the screen."""
        return [json.loads(line) for line in self.lines if line.startswith("{")]

    def wait_for(self, what: Callable[[], Any], seconds: float = 60) -> None:
        """Wait until what() is true; fail with the screen where it never is."""
        deadline = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < deadline, self.terminal.text[-3000:]
            assert self.process.poll() is None, self.terminal.text[-3000:]
            time.sleep(0.02)

    def assert_ends_cleanly(self) -> None:
        """Check that the demo ends, well, and that nothing is left of it."""
        processes = psutil.Process(self.process.pid).children(recursive=True)
        assert self.process.wait(30) == 0, self.terminal.text[-3000:]
        assert psutil.wait_procs(processes, timeout=1)[1] == []
        assert "Traceback" not in self.terminal.text
        assert self.terminal.text.rfind(WRAP) > self.terminal.text.rfind(CUT)  # as the terminal was before
        assert list((self.directory / "tmp").iterdir()) == []

    def close(self) -> None:
        """Leave no demo behind, whatever has failed."""
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(60)


@pytest.fixture
def demo(kafka: None, tmp_path: Path, terminal: Terminal) -> Iterator[Demo]:
    """A demo that has just been started."""
    with contextlib.closing(Demo(tmp_path, terminal)) as started:
        yield started


def test_stream_in_a_terminal(demo: Demo, tmp_path: Path) -> None:
    """The stream, the printed command, and the end by Ctrl-C."""
    demo.wait_for(lambda: {message["partition"] for message in demo.messages} == {0, 1, 2})
    for message in demo.messages:
        assert_is_a_block(message["value"])

    # In a second terminal, all partitions are its own, and at once.
    hint = [line for line in demo.lines if line.startswith("    ")]
    with seconds_at_most(10):
        ended = shell("\n".join(hint[:2]) + " --max-messages 6", tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert GREETING in ended.stderr
    assert "warning" not in ended.stderr
    for message in parse(ended.stdout):
        assert_is_a_block(message["value"])
    demo.wait_for(lambda: [line for line in demo.lines if line.startswith("    ")] == 2 * hint[:2])  # said again

    assert len(psutil.Process(demo.process.pid).children(recursive=True)) == 2  # the broker and the consumer
    demo.terminal.press_ctrl_c()
    demo.assert_ends_cleanly()
    assert sum(line.partition("stopped: ")[1] != "" for line in demo.lines) == 1  # the consumer's goodbye
    assert demo.terminal.text.index(CUT) < demo.terminal.text.index('{"partition"')


def test_ctrl_c_while_it_starts(demo: Demo) -> None:
    """It ends without a word more."""
    demo.wait_for(lambda: "starting Kafka" in demo.terminal.text)
    demo.terminal.press_ctrl_c()
    demo.assert_ends_cleanly()
    assert demo.messages == []


def test_ctrl_c_again_and_again(demo: Demo) -> None:
    """Neither does impatience leave anything behind."""
    demo.wait_for(lambda: psutil.Process(demo.process.pid).children())
    for _ in range(10):
        demo.terminal.press_ctrl_c()
        time.sleep(0.05)
    demo.assert_ends_cleanly()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGHUP])
def test_signal_while_it_starts(demo: Demo, how: signal.Signals) -> None:
    """The same where something else than a person ends it, or the terminal is closed."""
    demo.wait_for(lambda: psutil.Process(demo.process.pid).children())
    demo.process.send_signal(how)
    demo.assert_ends_cleanly()


def test_sigterm(demo: Demo) -> None:
    """Which the consumer, too, takes as a reason to say goodbye."""
    demo.wait_for(lambda: demo.messages)
    demo.process.terminate()
    demo.assert_ends_cleanly()
    assert "stopped: " in demo.terminal.text


def test_reader_that_has_enough(kafka: None, tmp_path: Path) -> None:
    """`demo.py | head -n 3` ends by itself, quietly."""
    (tmp_path / "tmp").mkdir()
    pipe = f"{{ {shlex.join(COMMAND)}; echo status $? >&2; }} | head -n 3"
    ended = shell(pipe, tmp_path, 60, TMPDIR=str(tmp_path / "tmp"))
    lines = ended.stdout.splitlines()
    assert len(lines) == 3
    for line in lines:
        assert_is_a_block(json.loads(line)["value"])
    assert ended.stderr.endswith("status 0\n")
    assert "Traceback" not in ended.stderr
    assert "error" not in ended.stderr.lower()
    assert "download" not in ended.stderr  # there is none
    assert list((tmp_path / "tmp").iterdir()) == []


def test_no_network_and_no_cache(tmp_path: Path) -> None:
    """One line says why there is no demo."""
    nothing = environment(tmp_path, HOME=str(tmp_path), XDG_CACHE_HOME=str(tmp_path), no_proxy="")
    ended = subprocess.run(
        COMMAND, env={**nothing, "https_proxy": "http://127.0.0.1:9"}, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 1
    assert ended.stdout == ""
    *_, last = lines = ended.stderr.splitlines()
    assert last.startswith("error: Kafka could not be downloaded (is there a network?)")
    assert len(lines) == 2


def test_blocks_of_the_feed() -> None:
    """They are the same for the same number, chained, and shaped as the sample."""
    blocks = [transaction_block(number) for number in range(200)]
    assert len(set(blocks)) == 200
    assert transaction_block(7) == blocks[7]
    for block in blocks:
        assert_is_a_block(block)
        assert b", " not in block.replace(b"\\", b"")  # compact
    headers = [json.loads(block)["Header"] for block in blocks]
    assert [header["ParentHash"] for header in headers[1:]] == [header["Hash"] for header in headers[:-1]]


def test_proto_blocks_of_the_feed() -> None:
    """The vendor's own class reads in them what is in the JSON of the same number."""
    for number in range(200):
        serialised = proto_block(number)
        message = BlockMessage.FromString(serialised)
        block = json.loads(transaction_block(number))
        assert message.Chain.ChainId.hex() == block["Chain"]["ChainId"]
        assert message.Header.TransactionsCount == len(block["Transactions"])
        text = consumer.json_line(0, 0, serialised)
        assert (b"base64" not in text) == (number % 4 == 3)
        if number % 4 == 3:
            continue
        assert message.Header.Number == block["Header"]["Number"]
        assert message.Header.Timestamp == block["Header"]["Timestamp"]
        assert message.Header.Hash.hex() == block["Header"]["Hash"]
        for ours, theirs in zip(message.Transactions, block["Transactions"], strict=True):
            assert ours.Header.Hash.hex() == theirs["TransactionHeader"]["Hash"]
            assert ours.Header.Index == theirs["TransactionHeader"]["Index"]


def test_proto_trades_of_the_feed() -> None:
    """The vendor's class reads all of it; the addresses have their length, and some begin with a zero byte."""
    payers = []
    for number in range(200):
        serialised = proto_trades(number)
        message = DexParsedBlockMessage.FromString(serialised)
        assert message.SerializeToString() == serialised
        assert b"base64" in consumer.json_line(0, 0, serialised)
        assert {len(each.Trades) for each in message.Transactions} == {1}
        payers += [each.Header.FeePayer for each in message.Transactions]
    assert {len(payer) for payer in payers} == {32}
    assert {payer[0] == 0 for payer in payers} == {True, False}


def test_it_needs_its_short_list_only() -> None:
    """It starts where nothing is installed of what the tests need besides, as the README has it."""
    assert "-r tests/demo-requirements.txt && .venv/bin/python tests/demo.py" in README
    listed = re.findall(r"^([\w-]+)==", (ROOT / "tests" / "requirements.txt").read_text(encoding="utf-8"), re.M)
    modules = [name for name, owners in importlib.metadata.packages_distributions().items() if {*owners} & {*listed}]
    assert {"pytest", "google", "tron"} <= {*modules}
    program = f"import sys; sys.path.insert(0, 'tests'); sys.modules.update(dict.fromkeys({modules})); import demo"
    ended = shell(shlex.join([sys.executable, "-c", program]), ROOT)
    assert ended.returncode == 0, ended.stderr
