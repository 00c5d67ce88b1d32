"""What only a person can mend ends the run, also after hours, with a line that says what to mend."""

import time

import pytest
from harness.broker import PASSWORD, Broker, ResourceType, wait
from harness.process import Start
from harness.settings import PROTOCOLS, Keys, settings


@pytest.mark.timeout(180)
def test_a_login_that_is_refused_for_good(own_broker: Broker, start: Start) -> None:
    topic = own_broker.create_topic("tron.login")
    own_broker.produce(topic, [b"x"])
    run = start(settings(own_broker), topic)
    run.wait_for_lines(1)
    own_broker.set_password("changed")
    own_broker.restart()
    assert run.end(60) == 1
    assert "sasl.password" in run.stderr
    assert run.stderr.count("error") == 1 + run.stderr.count("SASL authentication error")


@pytest.mark.timeout(180)
def test_a_login_that_is_refused_for_a_moment_is_tried_again(own_broker: Broker, start: Start) -> None:
    topic = own_broker.create_topic("tron.moment")
    own_broker.produce(topic, [b"x"])
    run = start(settings(own_broker, {"reconnect.backoff.max.ms": "500"}), topic)
    run.wait_for_lines(1)
    own_broker.set_password("changed")
    own_broker.restart()
    run.wait_for_words("trying again for a while", 60)
    time.sleep(3)  # in which each of the connections is refused
    own_broker.set_password(PASSWORD)
    own_broker.produce(topic, [b"y"])
    run.wait_for_lines(2)
    assert run.stop() == 0
    assert run.stderr.count("trying again for a while") == 1


@PROTOCOLS
def test_a_topic_that_is_deleted(broker: Broker, topic: str, start: Start, protocol: Keys) -> None:
    broker.produce(topic, [b"x"])
    run = start(settings(broker, protocol), topic)
    run.wait_for_lines(1)
    broker.delete_topic(topic)
    assert run.end(20) == 1  # of the thirty that the client library would wait by itself
    assert f"there is no topic {topic}" in run.stderr


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
    assert run.end(30) == 1
    assert "this user may not" in run.stderr
    assert "Traceback" not in run.stderr
    if resource == "TOPIC":  # the goodbye is heard, but not its offset
        assert (
            "warning: offsets were not committed, what was printed since may be printed again: Broker: " in run.stderr
        )


@PROTOCOLS
def test_two_copies_with_one_group_instance_id(broker: Broker, topic: str, start: Start, protocol: Keys) -> None:
    keys = settings(broker, {"group.instance.id": "one", **protocol})
    first = start(keys, topic)
    first.wait_for_words("partitions, group")
    second = start(keys, topic)
    ended, other = (second, first) if protocol else (first, second)
    assert ended.end() == 1
    assert "error: another copy has the same group.instance.id" in ended.stderr
    other.wait_for_words("partitions, group")
    broker.produce(topic, [b"x"])
    other.wait_for_lines(1)
    assert other.stop() == 0


def test_retention_with_auto_offset_reset_error_ends_it(broker: Broker, topic: str, start: Start) -> None:
    broker.produce(topic, [b"x"] * 100)
    keys = settings(broker)
    assert start(keys, topic, "--max-messages", "10").end() == 0
    broker.delete_records(topic, before=50)
    run = start({**keys, "auto.offset.reset": "error"}, topic)
    assert run.end() == 1
    assert "out of range" in run.stderr
