"""What tests and checker know of the script's standard error: each phrase once, so that a new wording is one edit."""

GREETING = ", group "  # where the partitions begin
WAITS = "waits for new messages"
RESUMES = "resumes after the last message printed"
ASSIGNED = ": assigned "  # after each rebalance
NOT_COMMITTED = "offsets were not committed"
BLOCKED = "error: standard output is blocked"
NEW_CLIENT = ": starting a new client"  # the old one stood still, or heard nothing
LOGIN_FAILED = "login failed"
TLS_FAILED = "TLS failed"
NO_ANSWER = "error: the broker does not answer, or the group waits"

_CHECKED = {  # by the names on which a verdict of tests/chaos rests
    "GREETING": [GREETING],
    "ASSIGNED": [ASSIGNED],
    "NEW_CLIENT": [NEW_CLIENT],
    "NOT_COMMITTED": [NOT_COMMITTED],
    "BLOCKED": [BLOCKED],
    "PRINTED_AGAIN": ["printed again", NO_ANSWER],  # the second where there was nothing to print again
    "REFUSED": [LOGIN_FAILED, "this user may not"],
    "DISTRUSTED": [TLS_FAILED],
    "CRASHING": [LOGIN_FAILED],  # amid a rebalance librdkafka may crash then
    "TRACEBACK": ["Traceback (most recent call last)"],
    "ERROR": ["error: "],
}


def found(text: str) -> frozenset[str]:
    """Return the names of the phrases that a text has."""
    return frozenset(name for name, phrases in _CHECKED.items() if any(phrase in text for phrase in phrases))


def errors(text: str) -> str:
    """Return the lines of a text that say why a run ends."""
    return "\n".join(line for line in text.splitlines() if line.startswith("error: "))
