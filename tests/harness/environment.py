"""Where things are, and which environment a program is started in: a user's, not that of whoever runs the tests."""

import itertools
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "consumer.py"

# Everything else, such as PYTHONUNBUFFERED, LC_ALL, SSL_CERT_FILE or a proxy, would decide what a test finds.
KEPT = (
    *("PATH", "HOME", "USER", "LANG", "TMPDIR"),
    "TZ",  # a test and the program that it starts must agree on local time
    "XDG_CACHE_HOME",  # Kafka's jars are kept there
)


def user_environment(**overrides: str) -> dict[str, str]:
    """Return the environment variables for a program that is started as a user would; `overrides` are added.

    What a coming Python will refuse is an error in these programs: they must go on working.
    """
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    return {**kept, "TERM": "xterm", "PYTHONWARNINGS": "error::DeprecationWarning", **overrides}


def numbers() -> Iterator[int]:
    """Count, in each process of pytest-xdist from elsewhere on: for names on the broker that all of them share."""
    return itertools.count(10_000 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) + 1)


def let_programs_hear() -> None:
    """Let the programs that are started from here hear SIGHUP and SIGINT.

    They would ignore them where nohup has started us, or `&` in a script.
    """
    for number in (signal.SIGHUP, signal.SIGINT):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, lambda *_: None)  # what is handled is reset in a program that is started


def missing(reason: str) -> NoReturn:
    """Skip the test because of what this machine lacks; in CI (CI=true) fail it."""
    import pytest  # the demo gets along without

    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
