"""The words of standard error that decide something: the one place where the script's sentences are known.

A verdict rests on these names, never on a text.
"""

import re

GREETING = re.compile(r": \d+ partitions?, group ")  # its start has succeeded
ASSIGNED = re.compile(r": assigned \d+ partitions?")  # the group has divided the partitions
NOT_COMMITTED = re.compile(r"offsets were not committed")
BLOCKED = re.compile(r"standard output is blocked")
PRINTED_AGAIN = re.compile(r"printed again")
REFUSED = re.compile(r"login failed|may not (read|use)")  # a password, or a right to a topic or a group
CRASHING = re.compile(r"login failed")  # amid a rebalance librdkafka may crash then
TRACEBACK = re.compile(r"^Traceback ", re.MULTILINE)
ERROR = re.compile(r"^error: .*", re.MULTILINE)  # the lines that say why a run ends

WORDS = {
    "GREETING": GREETING,
    "ASSIGNED": ASSIGNED,
    "NOT_COMMITTED": NOT_COMMITTED,
    "BLOCKED": BLOCKED,
    "PRINTED_AGAIN": PRINTED_AGAIN,
    "REFUSED": REFUSED,
    "CRASHING": CRASHING,
    "TRACEBACK": TRACEBACK,
    "ERROR": ERROR,
}


def found(text: str) -> frozenset[str]:
    """Return the names of the words that a text has."""
    return frozenset(name for name, pattern in WORDS.items() if pattern.search(text))


def errors(text: str) -> str:
    """Return the lines of a text that say why a run ends."""
    return "\n".join(match[0] for match in ERROR.finditer(text))
