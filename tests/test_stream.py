"""Reading a topic: what reaches standard output, from where a run goes on, and how it stops."""

import signal

import lz4.frame
import pytest
from broker import Broker
from conftest import PROTOCOLS, Start, seconds_at_most, settings


@PROTOCOLS
def test_every_message_is_printed_in_order(broker: Broker, topic: str, start: Start, protocol: dict[str, str]) -> None:
    broker.produce(topic, [lz4.frame.compress(b"%d" % number) for number in range(1000)])
    run = start(settings(broker, **protocol), topic)
    run.wait_for_lines(1000)
    assert run.stop() == 0
    assert run.lines == [{"partition": 0, "offset": n, "value": str(n)} for n in range(1000)]


@PROTOCOLS
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_stop(broker: Broker, topic3: str, start: Start, how: int, protocol: dict[str, str]) -> None:
    broker.produce(topic3, [b"x" * 1000] * 30_000)
    keys = settings(broker, **protocol)
    run = start(keys, topic3)
    run.wait_for_lines(1)
    with seconds_at_most(2):
        assert run.stop(how) == 0
    print(run.stderr)
