"""What is sent: a producer that never stops, and values that can be made again from a seed and a number."""

import contextlib
import hashlib
import itertools
import random
import threading
import time
from typing import Any

import lz4.frame
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from harness.cluster import Cluster

TOPIC = "tron.chaos"
PARTITIONS = 4  # at the start

Digest = bytes | None
Position = tuple[int, int]  # partition and offset

VALUES = {  # kind -> how often it is drawn
    "frame": 50,
    "frames": 10,
    "text": 20,
    "binary": 10,
    "empty": 4,
    "tombstone": 4,
    "large": 0.5,
    "large frame": 0.5,
}


def message(seed: int, number: int) -> tuple[bytes | None, bytes | None]:
    """Return a value as it is sent, and as a reader gets it; the same number gives the same."""
    dice = random.Random(f"{seed}/{number}")
    size = dice.choice((32, 2000))
    text = f'{{"number":{number},"hash":"{dice.randbytes(size).hex()}","text":"ü\\u0007\u2028\n\u0007"}}'.encode()
    (kind,) = dice.choices([*VALUES], [*VALUES.values()])
    if kind == "frame":
        return lz4.frame.compress(text), text
    if kind == "frames":
        return lz4.frame.compress(text) + lz4.frame.compress(text[::-1]), text + text[::-1]
    if kind == "binary":
        value = b"\xff" + dice.randbytes(300)
        return value, value
    if kind == "large":
        text = dice.randbytes(1 << 16).hex().encode()
    if kind == "large frame":
        text *= (1 << 20) // len(text)
        return lz4.frame.compress(text), text
    return {"text": (text, text), "large": (text, text), "empty": (b"", b"")}.get(kind, (None, None))


def digest(value: bytes | None) -> Digest:
    """Return what is kept of a value."""
    return None if value is None else hashlib.blake2b(value, digest_size=16).digest()


class Feed:
    """A producer that sends so many messages a second, and knows which were acknowledged, and where they are."""

    def __init__(self, cluster: Cluster, seed: int, rate: int) -> None:
        """Make its client; nothing is sent yet."""
        self.seed, self.rate = seed, rate
        self.address = cluster.address("PLAINTEXT")
        self.partitions = PARTITIONS
        self.acknowledged: dict[int, tuple[int, int | None]] = {}  # number -> partition and, where it is known, offset
        self._numbers = itertools.count()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._send)
        properties: dict[str, Any] = {"enable.idempotence": True, "acks": "all", "message.timeout.ms": 600_000}
        properties["topic.metadata.refresh.interval.ms"] = 1000
        self._producer = Producer({"bootstrap.servers": self.address, "log_level": 0, "linger.ms": 0, **properties})

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def _send(self) -> None:
        began = time.monotonic()
        for count in itertools.count():
            while (ahead := count / self.rate - (time.monotonic() - began)) > 0 and not self._stop.is_set():
                self._producer.poll(min(ahead, 0.1))
            if self._stop.is_set():
                return
            self.send()

    def send(self) -> None:
        """Send the next message."""
        number = next(self._numbers)

        def delivered(error: Any, sent: Any) -> None:
            if not error:
                offset = sent.offset()  # a duplicate that the broker has dropped has none
                self.acknowledged[number] = (sent.partition(), offset if offset is not None and offset >= 0 else None)

        value, _ = message(self.seed, number)
        for partitions in (self.partitions, PARTITIONS):  # it may have yet to hear of a new one
            with contextlib.suppress(KafkaException):
                self._producer.produce(TOPIC, value, str(number), number % partitions, on_delivery=delivered)
                return

    def flush(self) -> int:
        """Return how many messages have yet to be acknowledged, in vain."""
        return self._producer.flush(60)

    def stop(self) -> int:
        """Stop sending; return how many messages could not be sent."""
        self._stop.set()
        self._thread.join()
        return self.flush()

    def topic(self) -> dict[Position, int]:
        """Return the number of each message that the topic holds, by partition and offset."""
        client = Consumer({"bootstrap.servers": self.address, "group.id": "chaos", "enable.partition.eof": True})
        found = client.list_topics(TOPIC, timeout=30).topics[TOPIC].partitions
        client.assign([TopicPartition(TOPIC, partition, 0) for partition in found])
        numbers: dict[Position, int] = {}
        open_ = set(found)
        while open_:
            for each in client.consume(1000, 1):
                if (error := each.error()) is None:
                    numbers[each.partition() or 0, each.offset() or 0] = int(each.key() or b"")
                elif error.code() == KafkaError._PARTITION_EOF:
                    open_.discard(each.partition() or 0)
        client.close()
        return numbers
