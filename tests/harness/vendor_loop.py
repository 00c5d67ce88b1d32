"""The loop of the vendor's Python example, written from its description: what tests/benchmark.py compares with.

    python tests/harness/vendor_loop.py config.ini tron.broadcasted.transactions

One message at a time, and print() of a dict. It is slow and careless on purpose: do not repair it.
"""

import configparser
import sys

import lz4.frame
from confluent_kafka import Consumer, KafkaError, KafkaException, Message


def process_message(message: Message) -> None:
    """Print one message."""
    value = message.value()
    assert value is not None
    try:
        text = lz4.frame.decompress(value).decode("utf-8")
    except RuntimeError:
        text = value.decode("utf-8")
    print({"partition": message.partition(), "offset": message.offset(), "value": text})


def main(config: str, topic: str) -> None:
    """Print the topic until Ctrl-C."""
    parser = configparser.ConfigParser(interpolation=None, delimiters=("=",))
    parser.read(config, encoding="utf-8")
    consumer = Consumer(dict(parser["kafka"]))
    consumer.subscribe([topic])
    try:
        while True:
            message = consumer.poll(timeout=1.0)
            if message is None:
                continue
            error = message.error()
            if error:
                if error.code() == KafkaError._PARTITION_EOF:
                    continue
                raise KafkaException(error)
            process_message(message)
    except KeyboardInterrupt:
        pass
    finally:
        consumer.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
