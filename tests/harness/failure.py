"""What a user sees of a run that fails."""

import base64
import json
import re
import urllib.parse

from harness.broker import PASSWORD, USER
from harness.process import Run, seconds_at_most

# A second, where the broker answers and the machine is quiet; less than the ten seconds that a broker has to answer.
PROMPT = 9.5

# What librdkafka adds to its texts, and only its developers need.
NOISE = re.compile(r"/(bootstrap|\d+): |\(after |PLAINTEXT broker listener|broker certificate could not|recompile")


def check(run: Run, status: int, *words: str, within: float = PROMPT) -> None:
    """Check that the run ends in time with `status` and an error that has all of `words`, and nothing but that."""
    with seconds_at_most(within):
        assert run.end() == status, run.stderr
    assert run.stdout == "", run.stdout
    errors = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, run.stderr
    for word in words:
        assert word in errors[0], run.stderr
    assert len(run.stderr.splitlines()) <= 6, run.stderr
    assert "Traceback" not in run.stderr, run.stderr
    assert not NOISE.search(run.stderr), run.stderr
    assert secrets_in(run.stderr) == [], run.stderr


def secrets_in(text: str) -> list[str]:
    """Return what a text tells of the password: all of it or a part between its spaces and quotes, also escaped."""
    parts = [PASSWORD, *(part for part in re.split(r"[ '\"]+", PASSWORD) if len(part) >= 4)]
    forms = {
        form
        for part in parts
        for form in (
            part,
            repr(part)[1:-1],
            ascii(part)[1:-1],
            json.dumps(part)[1:-1],
            urllib.parse.quote(part),
            urllib.parse.quote_plus(part),
        )
    }
    for login in (PASSWORD, f"{USER}:{PASSWORD}", f"\0{USER}\0{PASSWORD}"):
        forms.add(base64.b64encode(login.encode()).decode().rstrip("="))
    return [form for form in forms if form in text]
