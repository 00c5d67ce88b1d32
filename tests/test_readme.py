"""The README's recipes, run as they are written there while the demo runs."""

import ast
import importlib
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import base58
import pytest
from google.protobuf.message import Message
from harness.blocks import SLOT, proto_trades, transaction_block
from harness.environment import ROOT, SCRIPT, missing, user_environment
from harness.process import shell
from solana.dex_block_message_pb2 import DexParsedBlockMessage

import consumer

README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^```sh\n(.*?)^```", README, re.M | re.S)
RECIPES = re.findall(r"^```sh\n(.*?)^```", README.partition("## Recipes")[2].partition("\n## ")[0], re.M | re.S)
RAYDIUM = "675kPX9MHTjS2zt1qfr1NYHuzeLXfQM9H24wFSUt1Mp8"  # the program of the exchange in the feed
BLOCKS = [transaction_block(number) for number in range(1000)]  # more than the demo feeds meanwhile


pytestmark = pytest.mark.xdist_group("readme")  # for one demo to do


@pytest.fixture(scope="module")
def second_terminal(kafka: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], str]]:
    """A function that runs lines of the README where the demo, in the first, says; it returns standard output."""
    directory = tmp_path_factory.mktemp("demo")
    said = directory / "stderr"
    with said.open("wb") as stderr:
        demo = subprocess.Popen(
            [sys.executable, ROOT / "tests" / "demo.py"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
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
        while not (cd := re.findall(r"^ *cd .*$", said.read_text(encoding="utf-8"), re.M)):
            assert time.monotonic() < deadline, said.read_text(encoding="utf-8")
            time.sleep(0.1)
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
    return str(found)


def classes(topic: str) -> list[str]:
    """Return the classes that the table of the README gives for topics whose name has these words."""
    (row,) = [line for line in README.splitlines() if line.startswith("|") and topic in line.split("|")[1]]
    return re.findall(r"`(\w+\.\w+:\w+)`", row)


def test_one_field_of_each_message(second_terminal: Callable[[str], str]) -> None:
    if not shutil.which("jq"):
        missing("jq is not installed")
    hashes = second_terminal(recipe("jq")).split()
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
    (of_solana,), (of_tron,) = classes("solana.transactions")[1:], classes("`tron.transactions")
    assert of_solana in tron
    blocks = [json.loads(line) for line in second_terminal(tron.replace(of_solana, of_tron)).splitlines()]
    assert len(blocks) == 10
    # Of the demo's messages, those without a number come as text, the others in base64.
    assert {"Number" in each["Header"] for each in blocks} == {True, False}
    hashes = {block["Header"]["Hash"] for block in fed()}
    assert {each["Header"]["Hash"] for each in blocks if "Hash" in each["Header"]} <= hashes


def test_the_last_two_hours_into_a_file_and_sql_on_it(second_terminal: Callable[[str], str]) -> None:
    time.sleep(3)  # for the demo to feed more than five
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


def test_the_classes_of_the_table_exist() -> None:
    named = re.findall(r"`(\w+)\.(\w+):(\w+)`", README)
    assert len(named) == 13
    for package, module, name in named:
        assert issubclass(getattr(importlib.import_module(f"{package}.{module}"), name), Message)


def test_the_test_command_is_the_one_of_ci() -> None:
    (command,) = [block for block in COMMANDS if "-m pytest" in block]
    assert command in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_it_is_short() -> None:
    assert len(README.splitlines()) <= 180
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
    assert len(messages) == 6
    for message in messages:
        assert any(re.sub(r"\d+", "…", message) in text for text in texts), message
