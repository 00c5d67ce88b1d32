"""What only a person can mend ends the run, also after hours, with a line that says what to mend."""

import os
import re
import shutil
import time
from pathlib import Path

import pytest
from confluent_kafka import Producer
from harness.broker import PASSWORD, Broker, ResourceType, wait
from harness.certificates import make_certificates
from harness.process import Start
from harness.settings import NEW_PROTOCOL, PROTOCOLS, Keys, settings
from harness.words import ASSIGNED


@pytest.mark.timeout(180)
def test_a_login_that_is_refused_for_good(own_broker: Broker, own_topic: str, start: Start) -> None:
    own_broker.produce(own_topic, [b"x"])
    run = start(settings(own_broker), own_topic, constants={"REFUSED_SECONDS": 5})
    run.wait_for_lines(1)
    own_broker.set_password("changed")
    own_broker.restart()
    assert run.end(90) == 1
    first, *_ = [line for line in run.stderr.splitlines() if line.startswith("error: ")]  # the goodbye may fail, too
    assert first.startswith("error: login failed: check sasl.username, sasl.password")


@pytest.mark.timeout(180)
def test_a_login_that_is_refused_for_a_moment_is_tried_again(own_broker: Broker, own_topic: str, start: Start) -> None:
    own_broker.produce(own_topic, [b"x"])
    run = start(settings(own_broker, {"reconnect.backoff.max.ms": "500"}), own_topic)
    run.wait_for_lines(1)
    own_broker.set_password("changed")
    own_broker.restart()
    run.wait_for_words("login failed")
    time.sleep(3)  # in which each of the connections is refused
    own_broker.set_password(PASSWORD)
    own_broker.produce(own_topic, [b"y"])
    run.wait_for_lines(2)
    assert run.stop() == 0
    assert run.stderr.count("login failed") == 1


def test_a_topic_that_is_deleted_ends_the_run_and_one_that_is_made_anew_is_read(broker: Broker, start: Start) -> None:
    """In the first seconds of a run the client library would wait for the topic to come."""
    waits = {"topic.metadata.propagation.max.ms": "3000"}  # half a minute, if not said
    runs = {}
    for number, protocol in enumerate(({}, NEW_PROTOCOL)):
        for fate in ("deleted", "made-anew"):
            topic = broker.create_topic(f"tron.{fate}-{number}")
            broker.produce(topic, [b"x"])
            keys = settings(broker, {**waits, **protocol})
            runs[topic] = start(keys, topic, constants={"LEADER_SECONDS": 5, "QUIET_SECONDS": 1, "LOOK_SECONDS": 10})
            runs[topic].wait_for_lines(1)
    time.sleep(4)  # longer than that
    for topic in runs:
        broker.delete_topic(topic)
    time.sleep(1)  # in which the client hears of it
    for topic, run in runs.items():
        if "made-anew" in topic:
            if topic.endswith("1"):  # KIP-848: or what it commits in the rebalance is committed into the new topic
                run.wait_for_words("assigned 0 partitions")
            broker.create_topic(topic)
            broker.produce(topic, [b"y"])
    for topic, run in runs.items():
        if "made-anew" in topic:
            run.wait_for(lambda run: run.lines[-1]["value"] == "y", 90)
            assert run.stop() == 0
            continue
        assert run.end() == 1
        assert f"error: there is no topic {topic}: check --topic" in run.stderr


@PROTOCOLS
@pytest.mark.parametrize("resource", ["TOPIC", "GROUP"])
def test_an_authorisation_that_is_withdrawn(broker: Broker, start: Start, resource: str, protocol: Keys) -> None:
    name = f"withdrawn-{resource}-{protocol.get('group.protocol', 'classic')}"
    rules = {kind: broker.acl(ResourceType[kind], name) for kind in ("TOPIC", "GROUP")}
    wait(broker.admin.create_acls([*rules.values()]))
    broker.create_topic(name)
    broker.produce(name, [b"x"])
    run = start(settings(broker, {"group.id": name, "auto.commit.interval.ms": "60000", **protocol}), name)
    run.wait_for_lines(1)
    broker.withdraw(rules[resource])
    assert run.end() == 1
    assert re.search("^error: .*(this user may not|refused by the group: check group.id)", run.stderr, re.M)
    assert "Traceback" not in run.stderr
    if resource == "TOPIC":  # the goodbye is heard, but not its offset
        assert "warning: what was printed may be printed again: offsets were not committed (Broker: " in run.stderr


@PROTOCOLS
def test_two_copies_with_one_group_instance_id(broker: Broker, topic: str, start: Start, protocol: Keys) -> None:
    keys = settings(broker, {"group.instance.id": "one", **protocol})
    first = start(keys, topic)
    first.wait_for_words(ASSIGNED)
    second = start(keys, topic)
    ended, other = (second, first) if protocol else (first, second)
    assert ended.end() == 1
    assert "group.instance.id (each member needs its own)" in ended.stderr
    other.wait_for_words(ASSIGNED)
    broker.produce(topic, [b"x"])
    other.wait_for_lines(1)
    assert other.stop() == 0


@pytest.mark.timeout(180)
def test_a_broker_that_comes_back_with_another_certificate(own_broker: Broker, own_topic: str, start: Start) -> None:
    own_broker.produce(own_topic, [b"x"])
    keys = settings(own_broker)
    for name in ("server.cer.pem", "client.cer.pem", "client.key.pem"):
        shutil.copy(own_broker.certificates / name, own_broker.directory)
    for key in ("ssl.ca.location", "ssl.certificate.location", "ssl.key.location"):
        keys[key] = str(own_broker.directory / Path(keys[key]).name)
    run = start(keys, own_topic, constants={"REFUSED_SECONDS": 5})
    run.wait_for_lines(1)
    own_broker.stop()
    make_certificates(own_broker.certificates)
    own_broker.start()
    run.wait_for_words("warning: TLS failed: check ssl.ca.location", 30)
    assert run.end(90) == 1
    assert "error: TLS failed: check ssl.ca.location" in run.stderr


@pytest.mark.parametrize("codec", ["none", "lz4"])
def test_a_message_that_was_damaged_on_the_disk(own_broker: Broker, start: Start, codec: str) -> None:
    """Printed is what is before it, and --from goes on behind it."""
    topic = own_broker.create_topic(
        f"tron.damaged-{codec}", settings={"compression.type": codec.replace("none", "uncompressed")}
    )
    for number in range(5):
        own_broker.produce(topic, [b"%d" % number + os.urandom(2000).hex().encode()])
        time.sleep(0.01)
    middle = time.time()
    time.sleep(1.1)
    own_broker.produce(topic, [b"after"])
    own_broker.stop()
    (log,) = (own_broker.directory / "data").glob(f"{topic}-0/*.log")
    content = bytearray(log.read_bytes())
    content[len(content) // 2] ^= 0xFF
    log.write_bytes(content)
    own_broker.start()
    keys = settings(own_broker)
    run = start(keys, topic)
    assert run.end() == 1
    assert [line["offset"] for line in run.lines] == [0, 1]
    assert "error: a damaged message (skip it with --from)" in run.stderr
    behind = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(middle + 1))
    run = start(keys, topic, "--from", behind, "--max-messages", "1")
    assert run.end() == 0, run.stderr
    assert run.lines == [{"partition": 0, "offset": 5, "value": "after"}]


def test_an_answer_that_is_larger_than_allowed(broker: Broker, start: Start) -> None:
    topic = broker.create_topic("tron.large", settings={"max.message.bytes": "5000000"})
    producer = Producer({"bootstrap.servers": broker.address("PLAINTEXT"), "message.max.bytes": 4_000_000})
    producer.produce(topic, os.urandom(3_000_000))
    assert producer.flush(30) == 0
    limits = {"receive.message.max.bytes": "1001000", "fetch.max.bytes": "1000000", "fetch.message.max.bytes": "900000"}
    run = start(settings(broker, limits), topic)
    assert run.end() == 1
    assert "receive.message.max.bytes" in run.stderr.splitlines()[-1]


def test_retention_with_auto_offset_reset_error_ends_it(broker: Broker, topic: str, start: Start) -> None:
    broker.produce(topic, [b"x"] * 100)
    keys = settings(broker)
    assert start(keys, topic, "--max-messages", "10").end() == 0
    broker.delete_records(topic, before=50)
    run = start({**keys, "auto.offset.reset": "error"}, topic)
    assert run.end() == 1
    assert "out of range" in run.stderr
