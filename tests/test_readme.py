"""The README's recipes, run as they are written there while the demo runs."""

import ast
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness.blocks import transaction_block
from harness.environment import ROOT, SCRIPT, missing, user_environment
from harness.process import shell

import consumer

README = (ROOT / "README.md").read_text(encoding="utf-8")
RECIPES = [block for block in re.findall(r"^```sh\n(.*?)^```", README, re.M | re.S) if "--max-messages" in block]

BLOCKS = {transaction_block(number).decode() for number in range(300)}  # more than the test reads


@pytest.fixture
def second_terminal(kafka: None, tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """A function that runs lines of the README where the demo, in the first, says; it returns standard output."""
    said = tmp_path / "stderr"
    with said.open("wb") as stderr:
        demo = subprocess.Popen(
            [sys.executable, ROOT / "tests" / "demo.py"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            env=user_environment(),
        )

    def run(lines: str) -> str:
        ended = shell(f"{cd[0]}\n{lines}", tmp_path, 60)
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


def recipe(words: str) -> str:
    """Return the one recipe that has these words."""
    (found,) = [block for block in RECIPES if words in block]
    return str(found)


def test_recipes_while_the_demo_runs(second_terminal: Callable[[str], str]) -> None:
    for program in ("jq", "gzip"):
        if not shutil.which(program):
            missing(f"{program} is not installed")
    assert len(RECIPES) == 4
    blocks = [json.loads(block) for block in BLOCKS]

    # One field of each message.
    hashes = second_terminal(recipe("TransactionHeader.Hash")).split()
    assert len(hashes) >= 10
    assert {each["TransactionHeader"]["Hash"] for block in blocks for each in block["Transactions"]} >= set(hashes)

    # Only the values, compressed.
    values = second_terminal(recipe("gzip") + "gzip -dc values.jsonl.gz").splitlines()
    assert len(values) == 10
    assert set(values) <= BLOCKS

    # SQL over the lines.
    rows = re.findall(r"│ (\d+) +│ +(\d+) │", second_terminal(recipe("duckdb")))
    assert len(rows) == 5
    counts = {block["Header"]["Number"]: len(block["Transactions"]) for block in blocks}
    assert all(counts[int(number)] == int(count) for number, count in rows)

    # A *.proto topic as JSON: of the demo's messages, those without a number come as text, the others in base64.
    messages = [json.loads(line) for line in second_terminal(recipe("BlockMessage")).splitlines()]
    assert len(messages) == 10
    assert {"Number" in message["Header"] for message in messages} == {True, False}

    # The streams without an end.
    endless = [line for line in re.findall(r"^ *(python consumer\.py .*)", README, re.M) if "--max" not in line]
    assert len(endless) == 2
    for command in endless:
        lines = second_terminal(f"{command} 2> /dev/null | head -n 2").splitlines()
        assert [json.loads(line)["value"] in BLOCKS for line in lines] == [True, True]


def test_the_test_command_is_the_one_of_ci() -> None:
    (command,) = [block for block in re.findall(r"^```sh\n(.*?)^```", README, re.M | re.S) if "-m pytest" in block]
    assert command in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_every_option_is_in_the_readme(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        consumer.main(["--help"])
    for option in re.findall(r"--[a-z-]+", capsys.readouterr().out):
        assert option == "--help" or option in README


def sentences() -> set[str]:
    """Return the first clause of each text of the script, with … for what is filled in."""
    texts = set()
    for node in ast.walk(ast.parse(SCRIPT.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else "…" for part in node.values]
            texts.add("".join(map(str, parts)))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            texts.add(re.sub(r"\{\w+\}", "…", node.value))
    without_kind = {text.removeprefix("warning: ").removeprefix("error: ") for text in texts}
    return {re.split(r"[:;(]", text)[0].strip() for text in without_kind}


def test_every_line_of_the_troubleshooting_is_one_that_the_script_says() -> None:
    table = README.partition("## When something is wrong")[2].partition("\n## ")[0]
    messages = [
        message for cell in re.findall(r"^\| (`.*?) \| ", table, re.M) for message in re.findall(r"`(.*?)`", cell)
    ]
    assert len(messages) > 20
    assert [message for message in messages if message not in sentences()] == []
