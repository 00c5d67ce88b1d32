"""What the README shows, run as it is written there: its recipes while the demo runs, and with lines that are bad."""

import ast
import base64
import importlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import base58
import pytest
from confluent_kafka import Consumer
from google.protobuf.message import Message
from harness.blocks import SLOT, proto_trades, transaction_block
from harness.broker import PASSWORD, Broker
from harness.environment import ROOT, SCRIPT, missing, user_environment
from harness.process import Run, parse, shell
from harness.settings import settings, write_config
from solana.dex_block_message_pb2 import DexParsedBlockMessage

import consumer

README = (ROOT / "README.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    """Return a section of the README."""
    return README.partition(f"## {title}\n")[2].partition("\n## ")[0]


def blocks(kind: str, text: str) -> list[str]:
    """Return the fenced blocks of a kind, such as sh."""
    return re.findall(rf"^```{kind}\n(.*?)^```", text, re.M | re.S)


COMMANDS = blocks("sh", README)
ACCOUNT = blocks("sh", section("With your account"))
INIS = blocks("ini", section("With your account"))
RECIPES = blocks("sh", section("Recipes"))
RAYDIUM = "675kPX9MHTjS2zt1qfr1NYHuzeLXfQM9H24wFSUt1Mp8"  # the program of the exchange in the feed
BLOCKS = [transaction_block(number) for number in range(1000)]  # more than the demo feeds meanwhile


pytestmark = pytest.mark.xdist_group("readme")  # for one demo to do


@pytest.fixture(scope="module")
def second_terminal(kafka: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], str]]:
    """A function that runs lines of the README where the demo, in the first, says; it returns standard output."""
    directory = tmp_path_factory.mktemp("demo")
    said, lines = directory / "stderr", directory / "stdout"
    with said.open("wb") as stderr, lines.open("wb") as stdout:
        demo = subprocess.Popen(
            [sys.executable, ROOT / "tests" / "demo.py"],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            env=user_environment(),
        )

    def run(lines: str) -> str:
        ended = shell(f"{cd[0]}\n{lines}", directory, 60)
        assert ended.returncode == 0, ended.stderr
        assert ended.stderr == ""
        return ended.stdout

    try:
        deadline = time.monotonic() + 60
        # With ten blocks there are some in each partition, and the one whose messages are asked for.
        while lines.read_bytes().count(b"\n") < 10:
            assert time.monotonic() < deadline, said.read_text(encoding="utf-8")
            time.sleep(0.1)
        cd = re.findall(r"^ *cd .*$", said.read_text(encoding="utf-8"), re.M)
        yield run
    finally:
        demo.terminate()
        assert demo.wait(60) == 0


def fed() -> Iterator[Any]:
    """Give what the demo feeds in JSON."""
    return map(json.loads, BLOCKS)


def recipe(words: str) -> str:
    """Return the one recipe that has these words."""
    (found,) = [block for block in RECIPES if words in block]
    return found


def class_of(topic: str) -> str:
    """Return the class that the table of the README gives for a topic."""
    (found,) = re.findall(rf"^\| `{re.escape(topic)}` \| `(\w+\.\w+:\w+)` \|$", README, re.M)
    return str(found)


def needs(*programs: str) -> None:
    """Skip the test where a program that users have is not installed here; in CI that is a failure."""
    for program in programs:
        if not shutil.which(program):
            package = {"envsubst": "gettext-base"}.get(program, program)
            missing(f"{program} is not installed; on Debian: apt-get install {package}")


def test_one_field_of_each_message(second_terminal: Callable[[str], str]) -> None:
    needs("jq")
    hashes = second_terminal(recipe("TransactionHeader")).split()
    assert len(hashes) >= 10
    assert {each["TransactionHeader"]["Hash"] for block in fed() for each in block["Transactions"]} >= set(hashes)


def test_protobuf_as_json(second_terminal: Callable[[str], str]) -> None:
    """The decoder, with two classes: bytes of Solana are in base58, those of Tron in hex."""
    decode = recipe("decode.py")
    trades = [json.loads(line) for line in second_terminal(decode).splitlines()]
    assert len(trades) == 10
    for each in trades:
        ours = DexParsedBlockMessage.FromString(proto_trades(each["Header"]["Slot"] - SLOT))
        assert base58.b58decode(each["Header"]["Hash"]) == ours.Header.Hash
        payers = [base58.b58decode(inner["Header"]["FeePayer"]) for inner in each["Transactions"]]
        assert payers == [inner.Header.FeePayer for inner in ours.Transactions]
        assert {inner["Trades"][0]["Dex"]["ProgramAddress"] for inner in each["Transactions"]} == {RAYDIUM}

    tron = decode.replace("solana.dextrades.proto", "tron.transactions.proto")
    of_solana, of_tron = class_of("solana.dextrades.proto"), class_of("tron.transactions.proto")
    assert of_solana in tron
    decoded = [json.loads(line) for line in second_terminal(tron.replace(of_solana, of_tron)).splitlines()]
    assert len(decoded) == 10
    # Of the demo's messages, those without a number come as text, the others in base64.
    assert {"Number" in each["Header"] for each in decoded} == {True, False}
    hashes = {block["Header"]["Hash"] for block in fed()}
    assert {each["Header"]["Hash"] for each in decoded if "Hash" in each["Header"]} <= hashes


def test_the_messages_of_one_block(second_terminal: Callable[[str], str]) -> None:
    needs("jq")
    (message,) = parse(second_terminal(recipe(".key ==")))
    assert list(message) == ["partition", "offset", "timestamp", "key", "value", "encoding"]
    assert message["key"] == str(SLOT + 3)
    assert DexParsedBlockMessage.FromString(base64.b64decode(message["value"])).Header.Slot == SLOT + 3


def test_how_old_each_message_is(second_terminal: Callable[[str], str]) -> None:
    needs("jq")
    ages = [int(age) for age in second_terminal(recipe(".timestamp")).split()]
    assert len(ages) == 10
    assert all(0 <= age < 300_000 for age in ages)


def test_several_topics(second_terminal: Callable[[str], str]) -> None:
    """Each run has all partitions of its topic, and each message comes once."""
    time.sleep(3)  # for something new in each partition
    show = "for topic in tron.transactions.proto solana.dextrades.proto; do cat $topic.jsonl; echo; done"
    for text in second_terminal(f"{recipe('for topic in')}{show}").split("\n\n")[:2]:
        found = [(line["partition"], line["offset"]) for line in map(json.loads, text.splitlines())]
        assert len(found) == len({*found}) > 0
        assert {partition for partition, _ in found} == {0, 1, 2}


def test_the_last_two_hours_into_a_file_and_sql_on_it(second_terminal: Callable[[str], str]) -> None:
    rows = re.findall(r"│ (\d+) +│ +(\d+) │", second_terminal(recipe("duckdb")))
    assert len(rows) == 5
    sizes = {block["Header"]["Number"]: len(text) for block, text in zip(fed(), BLOCKS, strict=True)}
    assert all(sizes[int(number)] == int(size) for number, size in rows)
    # Without --from it adds what is new, and nothing twice.
    (dump,) = re.findall("^python consumer.*", recipe("duckdb"), re.M)
    lines = second_terminal(f"{dump.replace('--from 2h ', '')}\ncat lines.jsonl").splitlines()
    found = [(line["partition"], line["offset"]) for line in map(json.loads, lines)]
    assert len(found) == len(set(found)) >= 5
    assert {offset for _, offset in found} == set(range(1 + max(offset for _, offset in found)))


# -- recipes on lines that they must pass over
def text_line(value: str | None, **fields: object) -> str:
    """Return a line of --metadata with this value; `fields` replace others, or are added."""
    known = {"partition": 0, "offset": 7, "timestamp": None, "key": "7", "value": value}
    return json.dumps({**known, **fields}, ensure_ascii=False)


BAD_LINES = [
    text_line("the rest of it is torn off")[:-20],
    text_line("half a line, and the next one")[:-20] + text_line("7"),
    "\0" * 100,  # which a file system may leave where a power cut was
    "\udcff",  # a byte that is not UTF-8
    '{"partition": 0, "offset": 7, "timestamp": null, "key": "7", "value": "\\ud800"}',
    *("", "null", "[]", "7", '"text"', "{}"),
    text_line(None, key=None),
    text_line("\0", key="\0"),
    text_line("/wD+", encoding="base64", key="/wD+", key_encoding="base64"),
    text_line("1234", encoding="base64"),  # which could be a number
    text_line("A", encoding="base64"),
    text_line("a\u2028b\u2029c\x85d"),
    text_line('{"Header":{"Number":"\\ud800"},"Transactions":"\\u0000"}'),
    text_line('{"Header":{"Number":7},"Transactions":[{"Transac'),
    *(text_line(value) for value in ("", "[1]", "3", "{}")),
]


def on_lines(command: str, directory: Path, good: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a recipe on a file instead of on a topic: on good lines and, between them, bad ones."""
    lines = [good[0], *BAD_LINES, *good[1:], text_line("the last one is torn off, too")[:-9]]
    (directory / "lines.jsonl").write_bytes("\n".join(lines).encode(errors="surrogateescape"))
    command, replaced = re.subn(
        r"^python consumer.py [^|]*?(?=\||>> lines.jsonl$)", "cat lines.jsonl ", command, flags=re.M
    )
    assert replaced == 1
    command = command.replace("cat lines.jsonl >> lines.jsonl", "")
    ended = shell(command, directory, 60, PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert ended.returncode == 0, ended.stderr
    return ended


def json_blocks() -> list[str]:
    """Return lines with two blocks in JSON, of the key that the README asks for."""
    return [text_line(block.decode(), key=str(SLOT + 3), timestamp=1764312345678) for block in BLOCKS[:2]]


def test_bad_lines_and_one_field_of_each_message(tmp_path: Path) -> None:
    needs("jq")
    ended = on_lines(recipe("TransactionHeader"), tmp_path, json_blocks())
    blocks = [json.loads(block) for block in BLOCKS[:2]]
    assert ended.stdout.split() == [each["TransactionHeader"]["Hash"] for one in blocks for each in one["Transactions"]]
    assert ended.stderr == ""


def test_bad_lines_and_protobuf_as_json(tmp_path: Path) -> None:
    """Those that cannot be decoded are told, for a class that does not fit the topic to be seen."""
    values = [base64.b64encode(proto_trades(number)).decode() for number in range(2)]
    ended = on_lines(recipe("decode.py"), tmp_path, [text_line(value, encoding="base64") for value in values])
    found = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [each["Header"]["Slot"] for each in found if "Header" in each] == [SLOT, SLOT + 1]
    assert len(found) < 6  # a value that is empty is an empty message
    said = ended.stderr.splitlines()
    assert len(said) > len(BAD_LINES) - 6
    assert all(line.startswith("passed over a line: ") for line in said)


def test_bad_lines_and_the_messages_of_one_block(tmp_path: Path) -> None:
    needs("jq")
    ended = on_lines(recipe(".key =="), tmp_path, json_blocks())
    assert parse(ended.stdout) == [json.loads(line) for line in json_blocks()]
    assert ended.stderr == ""


def test_bad_lines_and_how_old_each_message_is(tmp_path: Path) -> None:
    needs("jq")
    ended = on_lines(recipe(".timestamp"), tmp_path, json_blocks())
    now = time.time() * 1000 - 1764312345678
    assert all(0 <= now - int(age) < 60_000 for age in ended.stdout.split())
    assert len(ended.stdout.split()) == 2
    assert ended.stderr == ""


def test_bad_lines_and_sql(tmp_path: Path) -> None:
    ended = on_lines(recipe("duckdb"), tmp_path, json_blocks())
    sizes = [(str(json.loads(block)["Header"]["Number"]), str(len(block))) for block in BLOCKS[:2]]
    assert re.findall(r"│ (\d+) +│ +(\d+) │", ended.stdout) == sizes
    assert ended.stderr == ""


# -- with an account, and as a service
@pytest.fixture
def fresh(tmp_path: Path, broker: Broker, topic: str) -> Callable[[str], str]:
    """A function that runs commands of the README where nothing is but its files, with the broker's INI for an editor.

    They read a topic with five messages, of which they are to stop after three; it returns standard output.
    """
    for name in ("consumer.py", "config.example.ini", "requirements.txt"):
        shutil.copy(ROOT / name, tmp_path)
    ready = write_config(tmp_path / "broker" / "ready.ini", settings(broker))
    broker.produce(topic, [b"x"] * 5)
    # What pip and uv need for their index, and no Python but this one.
    names = ("PIP_INDEX_URL", "PIP_FIND_LINKS", "PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "https_proxy")
    given = {name: os.environ[name] for name in names if name in os.environ}
    for ours, theirs in {"PIP_INDEX_URL": "UV_DEFAULT_INDEX", "PIP_FIND_LINKS": "UV_FIND_LINKS"}.items():
        given |= {theirs: given[ours]} if ours in given else {}

    def run(commands: str) -> str:
        ended = shell(
            commands.replace("tron.transactions.proto", f"{topic} --max-messages 3"),
            tmp_path,
            110,
            **given,
            EDITOR=f"cp {ready}",
            UV_PYTHON=str(Path(sys.executable).resolve()),  # not the one of .venv, which has the packages
            PYTHONWARNINGS="default",  # pip has its own
            PATH=f"{os.environ['PATH']}:{Path(sys.executable).parent}",
        )
        assert ended.returncode == 0, ended.stderr
        assert "stopped: 3 messages" in ended.stderr
        return ended.stdout

    return run


def test_with_an_account_and_uv(fresh: Callable[[str], str], tmp_path: Path) -> None:
    (command,) = [block for block in ACCOUNT if "uv run" in block]
    assert len(parse(fresh(command))) == 3
    assert (tmp_path / "config.ini").stat().st_mode & 0o777 == 0o600


def test_with_an_account_and_pip(fresh: Callable[[str], str], tmp_path: Path) -> None:
    (command,) = [block for block in ACCOUNT if "pip install" in block]
    shutil.copy(tmp_path / "broker" / "ready.ini", tmp_path / "config.ini")
    assert len(re.findall('^{"partition"', fresh(command), re.M)) == 3  # beside what pip says


def test_the_password_from_a_secret(fresh: Callable[[str], str], tmp_path: Path) -> None:
    needs("envsubst")
    (command,) = [block for block in ACCOUNT if "envsubst" in block]
    (line,) = re.findall(r"`(sasl.password = .*?)`", README)
    text = (tmp_path / "broker" / "ready.ini").read_text(encoding="utf-8")
    assert PASSWORD in text
    text = re.sub("^sasl.password = .*", line, text, flags=re.M)
    (tmp_path / "config.ini").write_text(text, encoding="utf-8")
    python = shlex.quote(sys.executable)
    secret = f"export KAFKA_PASSWORD={shlex.quote(PASSWORD)}\n"
    assert len(parse(fresh(secret + command.replace("python", python, 1)))) == 3


def test_the_ini_of_a_plain_kafka(broker: Broker, topic: str, tmp_path: Path) -> None:
    (ini,) = [block for block in INIS if "sasl" not in block]
    broker.produce(topic, [b"x"])
    config = tmp_path / "config.ini"
    config.write_text(ini.replace("localhost:9092", broker.address("PLAINTEXT")))
    config.chmod(0o600)
    run = Run(tmp_path, ["--config", str(config), "--topic", topic, "--from", "beginning", "--exit-at-end"])
    assert run.end() == 0, run.stderr
    assert len(run.lines) == 1
    assert "warning" not in run.stderr


def test_the_inis_of_other_brokers(tmp_path: Path) -> None:
    """They are read, and make a client, which has nobody to talk to here."""
    assert len(INIS) == 3
    for ini in INIS:
        config = tmp_path / "config.ini"
        config.write_text(re.sub("(?<=bootstrap.servers = ).*", "127.0.0.1:1", ini))
        config.chmod(0o600)
        Consumer({**consumer.read_config(str(config)), "log_level": 0}).close()


def test_as_a_service(broker: Broker, topic: str, tmp_path: Path) -> None:
    """The unit's command, and the file that is renamed each day: nothing is lost, and nothing comes twice."""
    (unit,) = blocks("ini", section("As a service"))
    (rotation,) = re.findall(r"^```\n(/var/.*?)^```", section("As a service"), re.M | re.S)
    (command,) = re.findall(r"^ExecStart=\S+ (.*)", unit, re.M)
    (path,) = re.findall("^StandardOutput=append:(.*)", unit, re.M)
    config = write_config(tmp_path / "config.ini", settings(broker))
    directory = tmp_path / "lib"
    directory.mkdir()
    name = directory / Path(path).name
    runs: list[Run] = []

    def restart() -> None:
        """Do what systemd does."""
        if runs:
            assert runs[-1].stop(signal.SIGTERM) == 0
        arguments = [*command.replace("tron.transactions.proto", topic).split()[1:], "--config", str(config)]
        with name.open("ab") as file:
            runs.append(Run(tmp_path, arguments, stdout=file))

    def written() -> list[int]:
        return [one["offset"] for each in sorted(directory.iterdir()) for one in parse(each.read_text())]

    def wait_for(count: int) -> None:
        runs[-1].wait_for(lambda _: len(written()) >= count)

    try:
        restart()
        broker.produce(topic, [b"x"] * 3)
        wait_for(3)
        assert "compress\n" in rotation
        name.rename(f"{name}.1")  # as logrotate does before `postrotate`, and compresses it the next day
        broker.produce(topic, [b"x"] * 3)
        wait_for(6)
        assert re.search(r"delaycompress\n *postrotate\n *systemctl restart \w+\n", rotation)
        restart()
        broker.produce(topic, [b"x"] * 3)
        wait_for(9)
        assert runs[-1].stop(signal.SIGTERM) == 0
    finally:
        for run in runs:
            run.kill()
    assert sorted(written()) == list(range(9))
    assert name.read_text().count("\n") == 3


# -- the rest of it
def test_the_classes_of_the_table_exist() -> None:
    named = re.findall(r"`(\w+)\.(\w+):(\w+)`", README)
    assert len(named) == 19
    for package, module, name in named:
        assert issubclass(getattr(importlib.import_module(f"{package}.{module}"), name), Message)


def test_the_examples_of_help(second_terminal: Callable[[str], str], capsys: pytest.CaptureFixture[str]) -> None:
    """They run as written; the one that does not end by itself is stopped by Ctrl-C."""
    needs("jq")
    with pytest.raises(SystemExit):
        consumer.main(["--help"])
    examples = re.findall("^  (python consumer.py .*)", capsys.readouterr().out, re.M)
    assert len(examples) == 3
    for example in examples:
        prepare = "mkdir -p help && cd help && rm -f lines.jsonl && cp ../config.ini ../consumer.py ."
        run = f"{{ timeout --preserve-status -s INT 5 {example}; }} 2> said"
        printed = second_terminal(f"{prepare} && {run} && {{ [ ! -e lines.jsonl ] || cat lines.jsonl; }}")
        assert printed, example


def test_the_test_command_is_the_one_of_ci() -> None:
    (command,) = [block for block in COMMANDS if "-m pytest" in block]
    assert command in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_its_lines_are_short() -> None:
    assert max(len(line) for line in README.splitlines() if not line.startswith("|") and "http" not in line) <= 120


def test_every_option_is_in_the_readme(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        consumer.main(["--help"])
    for option in re.findall(r"--[a-z-]+", capsys.readouterr().out):
        assert option == "--help" or option in README


def test_every_line_of_the_troubleshooting_is_one_that_the_script_says() -> None:
    texts = []  # of the script, with … for what is filled in
    for node in ast.walk(ast.parse(SCRIPT.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            texts.append("".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values))
        elif isinstance(node, ast.Constant):
            texts.append(str(node.value))
    table = README.partition("## When something is wrong")[2].partition("\n## ")[0]
    messages = re.findall(r"^\| `(.*?)` \| ", table, re.M)
    assert len(messages) == 8
    for message in messages:
        for words in re.split(r"\d+(?: \w+s\b)?", message):  # less a count, such as 12 messages
            assert any(words in text for text in texts), message
