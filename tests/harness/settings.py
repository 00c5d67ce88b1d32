"""The settings with which consumer.py reaches a broker of the tests, and the INI that holds them."""

import contextlib
from collections.abc import Mapping
from pathlib import Path

from harness.broker import PASSWORD, USER, Kafka
from harness.environment import numbers

Keys = Mapping[str, str | None]  # properties of librdkafka by their dotted names; None leaves one out

_number = numbers()

# The overrides for settings() that choose the consumer group protocol of KIP-848.
NEW_PROTOCOL: Keys = {"group.protocol": "consumer", "session.timeout.ms": None}
COOPERATIVE: Keys = {"partition.assignment.strategy": "cooperative-sticky"}

with contextlib.suppress(ImportError):  # the demo gets along without pytest
    import pytest

    PROTOCOLS = pytest.mark.parametrize("protocol", [{}, NEW_PROTOCOL], ids=["classic", "consumer"])
    STRATEGIES = pytest.mark.parametrize(
        "protocol", [{}, COOPERATIVE, NEW_PROTOCOL], ids=["classic", "cooperative", "consumer"]
    )


def settings(broker: Kafka, keys: Keys | None = None) -> dict[str, str]:
    """Return the keys of a config.ini for `broker`, with a group of its own; `keys` override, and None drops one."""
    merged: dict[str, str | None] = {
        "bootstrap.servers": broker.address(),
        "group.id": f"{USER}-{next(_number)}",
        "security.protocol": "SASL_SSL",
        "sasl.mechanisms": "SCRAM-SHA-512",
        "sasl.username": USER,
        "sasl.password": PASSWORD,
        "ssl.ca.location": str(broker.certificates / "server.cer.pem"),
        "ssl.certificate.location": str(broker.certificates / "client.cer.pem"),
        "ssl.key.location": str(broker.certificates / "client.key.pem"),
        "ssl.endpoint.identification.algorithm": "none",
        "auto.offset.reset": "earliest",
        "session.timeout.ms": "6000",
        **(keys or {}),
    }
    return {key: value for key, value in merged.items() if value is not None}


def write_config(path: Path, keys: Mapping[str, str]) -> Path:
    """Write an INI that only its owner can read, and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)  # before a password is in it
    path.chmod(0o600)
    path.write_text("[kafka]\n" + "".join(f"{key} = {value}\n" for key, value in keys.items()), encoding="utf-8")
    return path
