"""Reading a topic over the network: what was sent comes out, whatever the listener, the directory and the locale."""

import json
import random
import re
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import lz4.frame
import pytest
from harness.blocks import transaction_block
from harness.broker import PASSWORD, USER, AclOperation, Broker, ResourceType, wait
from harness.environment import ROOT, SCRIPT, user_environment
from harness.process import Run, Start, peak_memory, shell, value_of
from harness.settings import NEW_PROTOCOL, PROTOCOLS, Keys, settings, write_config
from harness.words import ASSIGNED

import consumer


@PROTOCOLS
def test_every_message_is_printed_in_order(broker: Broker, topic: str, start: Start, protocol: Keys) -> None:
    broker.produce(topic, [lz4.frame.compress(b"%d" % number) for number in range(2000)])
    run = start(settings(broker, protocol), topic)
    run.wait_for_lines(2000)
    assert run.stop() == 0
    assert run.lines == [{"partition": 0, "offset": n, "value": str(n)} for n in range(2000)]


def test_a_message_is_printed_when_it_comes(broker: Broker, topic: str, start: Start) -> None:
    """It waits neither for others to fill a batch nor for the end of a poll."""
    run = start(settings(broker), topic)
    run.wait_for_words(ASSIGNED)
    seconds = []
    for number in range(21):
        began = time.monotonic()
        broker.produce(topic, [b"x"])
        run.wait_for_lines(number + 1)
        seconds.append(time.monotonic() - began)
    assert run.stop() == 0
    assert statistics.median(seconds) < 0.5


def test_transactions(broker: Broker, topic3: str, start: Start) -> None:
    blocks = [transaction_block(number) for number in range(300)]
    broker.produce(topic3, [lz4.frame.compress(block) for block in blocks])
    run = start(settings(broker), topic3, "--max-messages", "300")
    assert run.end() == 0
    assert sorted(line["value"].encode() for line in run.lines) == sorted(blocks)


def test_every_kind_of_value(broker: Broker, topic: str, start: Start) -> None:
    noise = random.Random(1).randbytes(900_000)
    values: list[bytes | None] = [
        b"text",
        None,
        b"",
        'ü \u2028 \x00 " \\ \n'.encode(),
        b"\xff",
        noise,
        b"x" * 999_000,
    ]
    broker.produce(topic, [*values, lz4.frame.compress(noise), lz4.frame.compress(b"y" * 1_000_000)])
    run = start(settings(broker), topic, "--max-messages", "9")
    assert run.end() == 0
    assert [value_of(line) for line in run.lines] == [*values, noise, b"y" * 1_000_000]


def test_metadata_adds_timestamp_and_key(broker: Broker, topic: str, start: Start) -> None:
    """A key is never decompressed. The default line stays as it is."""
    now = int(time.time() * 1000)  # what is a year old Kafka would delete
    keys = [None, b"", b"0xabc", "ü\n".encode(), b"\xff\0", lz4.frame.compress(b"key")]
    for number, key in enumerate(keys):
        broker.producer.produce(topic, b"\xfe", key=key, timestamp=now + number)
    assert broker.producer.flush(30) == 0
    run = start(settings(broker), topic, "--metadata", "--max-messages", str(len(keys)))
    assert run.end() == 0
    for number, (line, key) in enumerate(zip(run.lines, keys)):
        assert line["timestamp"] == now + number
        encoded = "key_encoding" in line
        assert encoded == (number >= 4)
        fields = ["key", "key_encoding"] if encoded else ["key"]
        assert list(line) == ["partition", "offset", "timestamp", *fields, "value", "encoding"]
        assert value_of({"value": line["key"], **({"encoding": "base64"} if encoded else {})}) == key


def test_hostile_values_neither_stop_the_stream_nor_fill_the_memory(broker: Broker, topic: str, start: Start) -> None:
    bomb = lz4.frame.compress(bytes(230_000_000))
    assert len(bomb) < 1_000_000
    hostile = [bomb, consumer.LZ4_MAGIC + b"\xff" * 1000, lz4.frame.compress(b"cut short" * 9)[:-5]]
    broker.produce(topic, hostile * 30)
    run = start(settings(broker), topic, "--max-messages", "90")
    assert memory_to_the_end(run) < 400_000_000
    assert run.end() == 0
    assert len(run.lines) == 90
    assert all(line["encoding"] == "base64" for line in run.lines)
    assert "warning" not in run.stderr


def test_a_batch_that_inflates_to_a_gigabyte_does_not_fill_the_memory(broker: Broker, topic: str, start: Start) -> None:
    broker.produce(topic, [lz4.frame.compress(b"x" * 4_000_000)] * 250)
    run = start(settings(broker), topic, "--max-messages", "250", stdout=subprocess.DEVNULL)
    assert memory_to_the_end(run) < 200_000_000
    assert run.end() == 0


def memory_to_the_end(run: Run) -> int:
    """Wait for the end of a process; return what its resident memory was at the most, in bytes."""
    peak = 0
    while run.process.poll() is None:
        peak = max(peak, peak_memory(run.process))
        time.sleep(0.02)
    return peak


DEFAULT_GROUP = pytest.mark.xdist_group("default group")  # of which all are members that name none


@DEFAULT_GROUP
@pytest.mark.parametrize(("port", "listener"), [("9093", "SASL_SSL"), ("9092", "SASL_PLAINTEXT")])
def test_either_port_of_the_example(broker: Broker, topic: str, tmp_path: Path, port: str, listener: str) -> None:
    """As a user edits it: the login, and the semicolons. Its paths are relative to itself, wherever it is run."""
    broker.produce(topic, [lz4.frame.compress(b"x")])
    text = (ROOT / "config.example.ini").read_text(encoding="utf-8")
    with_tls = re.findall(r"^\w.*", text.partition("# Port 9093")[2].partition("# Port 9092")[0], re.M)
    without = re.findall(r"^;(\w.*)", text.partition("# Port 9092")[2].partition("\n\n")[0], re.M)
    assert (len(with_tls), len(without)) == (6, 2)
    if port == "9092":
        for line in with_tls:
            text = text.replace(f"\n{line}\n", f"\n;{line}\n")
        for line in without:
            text = text.replace(f"\n;{line}\n", f"\n{line}\n")
    else:
        shutil.copytree(broker.certificates, tmp_path / "home" / "certs")
    hosts = ",".join(f"rpk{number}.bitquery.io:{port}" for number in range(3))
    for old, new in {hosts: broker.address(listener), "YOUR_USERNAME": USER, "YOUR_PASSWORD": PASSWORD}.items():
        assert text.count(f"= {old}\n") == 1
        text = text.replace(f"= {old}\n", f"= {new}\n")
    config = tmp_path / "home" / "config.ini"
    config.parent.mkdir(exist_ok=True)
    config.touch(mode=0o600)
    config.write_text(text, encoding="utf-8")
    arguments = ["--config", "home/config.ini", "--topic", topic, "--from", "beginning", "--exit-at-end"]
    run = Run(tmp_path, arguments, cwd=tmp_path)
    assert run.end() == 0, run.stderr
    assert run.lines == [{"partition": 0, "offset": 0, "value": "x"}]
    assert "warning" not in run.stderr


@DEFAULT_GROUP
def test_an_ini_by_a_link_or_a_tilde_or_a_pipe(broker: Broker, topic: str, tmp_path: Path) -> None:
    """Certificates are beside the file itself; a pipe is in no directory, so that the current one counts."""
    broker.produce(topic, [b"x"])
    home = tmp_path / "home"
    shutil.copytree(broker.certificates, home / "certs")
    keys = settings(broker, {"group.id": None})
    for key in ("ssl.ca.location", "ssl.certificate.location", "ssl.key.location"):
        keys[key] = f"certs/{Path(keys[key]).name}"
    write_config(home / "real.ini", keys)
    (tmp_path / "link.ini").symlink_to(home / "real.ini")
    arguments = f"--topic {topic} --from beginning --max-messages 1 --quiet"
    for config, directory in (("link.ini", tmp_path), ("~/real.ini", tmp_path), ("<(cat real.ini)", home)):
        option = f"--config {config}" if "<" in config else f"--config='{config}'"
        ended = shell(f"{sys.executable} {SCRIPT} {option} {arguments}", directory, HOME=str(home))
        assert (ended.returncode, ended.stderr) == (0, "")
        assert ended.stdout == '{"partition": 0, "offset": 0, "value": "x"}\n'


def test_config_ini_in_the_current_directory_is_the_default(broker: Broker, topic: str, tmp_path: Path) -> None:
    broker.produce(topic, [b"x"])
    write_config(tmp_path / "config.ini", settings(broker))
    run = Run(tmp_path, ["--topic", topic, "--max-messages", "1"], cwd=tmp_path)
    assert run.end() == 0, run.stderr
    assert len(run.lines) == 1


def test_utf8_whatever_the_locale(broker: Broker, topic: str, start: Start) -> None:
    broker.produce(topic, ["ü 東 😀".encode()])
    environment = user_environment(LC_ALL="C", PYTHONCOERCECLOCALE="0", PYTHONUTF8="0")
    run = start(settings(broker), topic, "--max-messages", "1", env=environment)
    assert run.end() == 0
    assert run.stdout == '{"partition": 0, "offset": 0, "value": "ü 東 😀"}\n'


@DEFAULT_GROUP
def test_the_group_is_named_after_the_user_by_default(broker: Broker, topic: str, start: Start) -> None:
    broker.produce(topic, [b"x"])
    run = start(settings(broker, {"group.id": None}), topic, "--max-messages", "1")
    assert run.end() == 0
    assert "group tron_user-group-1:" in run.stderr


def test_standard_output_has_nothing_but_the_lines(broker: Broker, topic: str, start: Start) -> None:
    broker.produce(topic, [b"x"] * 3)
    run = start(settings(broker, NEW_PROTOCOL), topic, "--max-messages", "3", "--from", "beginning")
    assert run.end() == 0
    assert [json.loads(line)["offset"] for line in run.stdout.splitlines()] == [0, 1, 2]


def test_a_topic_is_never_created(broker: Broker, start: Start) -> None:
    wait(broker.admin.create_acls([broker.acl(ResourceType.TOPIC, "tron.typo", AclOperation.CREATE)]))
    run = start(settings(broker), "tron.typo")
    assert run.end() == 1
    assert "tron.typo" not in broker.admin.list_topics(timeout=10).topics
