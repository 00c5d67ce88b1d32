"""The README's recipes, run as they are written there."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import lz4.frame
import pytest
from harness.blocks import transaction_block
from harness.broker import Broker
from harness.environment import ROOT, SCRIPT, missing
from harness.process import shell
from harness.settings import settings, write_config
from tron.block_message_pb2 import BlockMessage

import consumer

README = (ROOT / "README.md").read_text(encoding="utf-8")
RECIPES = [block for block in re.findall(r"^```sh\n(.*?)^```", README, re.M | re.S) if "--max-messages" in block]


@pytest.fixture(scope="module")
def fed(broker: Broker) -> Broker:
    """The broker with the topics that the README reads: one of JSON, one of protobuf messages."""
    broker.create_topic("tron.broadcasted.transactions", partitions=3)
    broker.produce("tron.broadcasted.transactions", [lz4.frame.compress(transaction_block(n)) for n in range(20)])
    broker.create_topic("tron.transactions.proto")
    broker.produce("tron.transactions.proto", [lz4.frame.compress(proto(n).SerializeToString()) for n in range(20)])
    return broker


def proto(number: int) -> BlockMessage:
    """Return a message of the vendor's class; some are valid UTF-8 when serialised, some are not."""
    message = BlockMessage()
    message.Header.Number = number * 100
    if number % 2:
        message.Header.Hash = bytes(range(200, 232))
    return message


def run(broker: Broker, directory: Path, recipe: str) -> str:
    """Run a recipe in a directory like a user's; return its standard output."""
    for word in ("jq", "gzip"):
        if re.search(rf"\b{word}\b", recipe) and not shutil.which(word):
            missing(f"{word} is not installed")
    write_config(directory / "config.ini", settings(broker))
    (directory / "consumer.py").symlink_to(SCRIPT)
    # As if the virtual environment were activated.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    ended = shell(recipe, directory, 60, PATH=path)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    return ended.stdout


def recipe(words: str) -> str:
    """Return the one recipe that has these words."""
    (found,) = [block for block in RECIPES if words in block]
    return str(found)


def test_a_field_of_a_message(fed: Broker, tmp_path: Path) -> None:
    hashes = run(fed, tmp_path, recipe("TransactionHeader.Hash")).split()
    expected = {
        transaction["TransactionHeader"]["Hash"]
        for number in range(20)
        for transaction in json.loads(transaction_block(number))["Transactions"]
    }
    assert set(hashes) == expected


def test_only_the_values_compressed(fed: Broker, tmp_path: Path) -> None:
    run(fed, tmp_path, recipe("gzip"))
    text = subprocess.run(["gzip", "-dc", tmp_path / "values.jsonl.gz"], capture_output=True, check=True).stdout
    assert sorted(text.split(b"\n")[:-1]) == sorted(transaction_block(number) for number in range(20))


def test_sql_over_the_lines(fed: Broker, tmp_path: Path) -> None:
    table = run(fed, tmp_path, recipe("duckdb"))
    for number in range(5):
        block = json.loads(transaction_block(number))
        assert re.search(rf"{block['Header']['Number']} +│ +{len(block['Transactions'])} ", table)


def test_a_proto_topic_as_json(fed: Broker, tmp_path: Path) -> None:
    printed = [json.loads(line) for line in run(fed, tmp_path, recipe("BlockMessage")).splitlines()]
    assert [int(message.get("Header", {}).get("Number", 0)) for message in printed] == [n * 100 for n in range(20)]
    lines = [json.loads(consumer.json_line(0, 0, proto(n).SerializeToString(), print)) for n in range(20)]
    assert {"encoding" in line for line in lines} == {True, False}  # the recipe has met both


def test_every_recipe_has_a_test() -> None:
    assert len(RECIPES) == 4


def test_the_test_command_is_the_one_of_ci() -> None:
    (command,) = [block for block in re.findall(r"^```sh\n(.*?)^```", README, re.M | re.S) if "-m pytest" in block]
    assert command in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_every_option_is_in_the_readme(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        consumer.main(["--help"])
    for option in re.findall(r"--[a-z-]+", capsys.readouterr().out):
        assert option == "--help" or option in README


def test_every_line_of_the_troubleshooting_is_one_that_the_script_says() -> None:
    script = SCRIPT.read_text(encoding="utf-8")
    table = README.partition("## When something is wrong")[2].partition("\n## ")[0]
    for cell in re.findall(r"^\| (`.*?`) \|", table, re.M):
        for message in re.findall(r"`(.*?)`", cell):
            for words in re.split(r" … |; |config\.ini |16 MiB|no topic|topic$|group", message):
                assert words.strip() in script, words
