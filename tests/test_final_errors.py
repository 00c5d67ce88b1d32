"""What only a person can mend ends the run, also after hours, with a line that says what to mend."""

import pytest
from harness.broker import Broker, ResourceType, wait
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


@PROTOCOLS
def test_a_topic_that_is_deleted(broker: Broker, topic: str, start: Start, protocol: Keys) -> None:
    broker.produce(topic, [b"x"])
    run = start(settings(broker, protocol), topic)
    run.wait_for_lines(1)
    broker.delete_topic(topic)
    assert run.end(30) == 1
    assert f"there is no topic {topic}" in run.stderr


@PROTOCOLS
@pytest.mark.parametrize("resource", ["TOPIC", "GROUP"])
def test_an_authorisation_that_is_withdrawn(broker: Broker, start: Start, resource: str, protocol: Keys) -> None:
    name = f"withdrawn-{resource}-{protocol.get('group.protocol', 'classic')}"
    rules = {kind: broker.acl(ResourceType[kind], name) for kind in ("TOPIC", "GROUP")}
    wait(broker.admin.create_acls([*rules.values()]))
    broker.create_topic(name)
    broker.produce(name, [b"x"])
    run = start(settings(broker, {"group.id": name, **protocol}), name)
    run.wait_for_lines(1)
    broker.withdraw(rules[resource])
    assert run.end(30) == 1
    assert "this user may not" in run.stderr
    assert "Traceback" not in run.stderr


def test_retention_with_auto_offset_reset_error_ends_it(broker: Broker, topic: str, start: Start) -> None:
    broker.produce(topic, [b"x"] * 100)
    keys = settings(broker)
    assert start(keys, topic, "--max-messages", "10").end() == 0
    broker.delete_records(topic, before=50)
    run = start({**keys, "auto.offset.reset": "error"}, topic)
    assert run.end() == 1
    assert "out of range" in run.stderr
