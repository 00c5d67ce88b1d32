#!/usr/bin/env python3
# /// script
# requires-python = ">=3.10,<3.15"
# dependencies = ["confluent-kafka==2.16.1", "lz4==4.4.5"]
# ///
"""Print the messages of a Kafka topic as JSON Lines on standard output.

    $ python consumer.py --topic tron.broadcasted.transactions --max-messages 1
    tron.broadcasted.transactions: 3 partitions, group tron_user-group-1: waits for new messages
    tron.broadcasted.transactions: assigned 3 partitions
    {"partition": 0, "offset": 41, "value": "{\\"Chain\\":{\\"ChainId\\":\\"6d61696e6e6574\\"},…"}
    stopped: 1 message in 0:00:01

An offset is stored for commit only after its line has been written, and, if standard output is a
file, has been synced to disk. So a crash repeats messages and skips none: at least once. Only with
enable.auto.commit = false and auto.offset.reset = latest, what comes while nobody reads is skipped.

A worker thread does all that touches Kafka and standard output. The main thread waits for it and
for signals, and ends the process if the worker hangs while it stops.
"""

import signal

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback for Ctrl-C until `run` handles it

import argparse
import base64
import configparser
import contextlib
import datetime
import errno
import os
import re
import select
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from json.encoder import encode_basestring
from typing import Any

try:
    # The client would import it late, which fails if no file can be opened then.
    import confluent_kafka.admin
    from confluent_kafka import (
        OFFSET_BEGINNING,
        OFFSET_END,
        Consumer,
        KafkaError,
        KafkaException,
        Message,
        TopicPartition,
    )
    from lz4.frame import (
        create_decompression_context,
        decompress_chunk,
        reset_decompression_context,
    )
except ImportError as missing:
    module = sys.modules.get((missing.name or "").partition(".")[0])
    path = getattr(module, "__file__", None)
    remedy = "activate the virtual environment, or make one: pip install -r requirements.txt"
    if path and "-packages" not in path:
        remedy = f"{path} hides the package: rename it"
    sys.exit(f"error: {missing}: {remedy}")

__version__ = "3.0.0"

# The INI overrides these. In brackets: librdkafka's own default.
DEFAULTS = {
    "auto.offset.reset": "latest",  # [largest, the same]
    "enable.auto.commit": "true",
    "sasl.mechanisms": "SCRAM-SHA-512",  # [GSSAPI, which the package from pip cannot do]
    "fetch.queue.backoff.ms": "10",  # [1000] stops fetching so long when the queue is full
    "queued.max.messages.kbytes": "8192",  # [65536] just as fast with half of the memory
    "check.crcs": "true",  # [false] prints messages that were damaged on the broker's disk
    "auto.commit.interval.ms": "1000",  # [5000] bounds what is printed again after a crash
    "socket.timeout.ms": "30000",  # [60000] until a connection that died silently is noticed
}

POLL_SECONDS = 0.2  # the longest wait for a message before a signal is noticed
ANSWER_SECONDS = 2  # the longest wait for one request before it is sent again
START_SECONDS = 10  # until a broker has to answer; a slow link with TLS and SCRAM needs three
DOWN_SECONDS = 3  # the same once all brokers have failed: a second address may still work
LEADER_SECONDS = 20  # the same once a broker has answered; a new leader takes 9 s
REFUSED_SECONDS = 30  # a login or TLS refused for so long is refused for good
GROUP_SECONDS = 10  # without partitions until a warning
SESSION_SECONDS = 45  # [45] session.timeout.ms: until a group gives up a member that was killed
SPARE_SECONDS = 30  # more without partitions until --exit-at-end ends; see is_spare
LOOK_SECONDS = 60  # between two looks at whether a partition stands still
OUTAGE_SECONDS = 300  # without any answer until a new client is made
SYNC_SECONDS = 1  # between two syncs of a file
STOP_SECONDS = 5  # without progress while stopping; `docker stop` gives ten
SAY_SECONDS = 0.2  # the longest wait until standard error takes a line
TWICE_SECONDS = 0.04  # signals closer together count as one: timeout(1) sends each twice
QUIET_SECONDS = 60  # between two warnings of a kind; librdkafka repeats an error every 30 s
LOG_SECONDS = 60.0  # between two progress lines in a log
CLOCK_SECONDS = 10  # if the clock goes back by more, librdkafka waits that long

BATCH = 100  # most messages handled before signals are checked again; 1000 takes 3 % more CPU time
WRITE_BYTES = 1 << 16  # write once this much is collected; 1 MB exceeds the CPU cache: 10 % slower
PIPE_BYTES = 1 << 18  # [64 KB] keeps the reader busy while the next lines are made: 25 % faster
PIECE_BYTES = 1 << 17  # of one write call; 16 KB would cost 3 % more CPU time
SLOW_PIECE_BYTES = 1 << 12  # the same after a slow call, so that the progress of a reader is seen
SLOW_SECONDS = 0.1  # a call that takes longer is slow
MAX_INFLATED = 16 << 20  # bytes; the vendor's messages have at most 1 MB before decompression

# Without TERM a Windows console might print them.
ESCAPES = os.environ.get("TERM", "dumb") != "dumb"
TERMINAL_CONTROLS = re.compile(rb"\x7f|\xc2[\x80-\x9f]")  # JSON escapes the others
INI_FORM = 'after the one line [kafka], each line is "key = value", each key once'
START_FORMS = (
    "beginning, end, 30m, 2h, 1d or 2026-11-23T10:00[:00][Z|+02:00] (local time without a zone)"
)


class Failure(Exception):
    """Ends the run; its text is the line for the user."""


saying = threading.Lock()  # held while a line is written to standard error


def say(text: str, end: str = "\n") -> None:
    """Write a line to standard error, or drop it where nobody takes it: the messages matter more.

    With "\\r" as its end, the next line is written over it.
    """
    clear = "\x1b[K" if ESCAPES and sys.stderr.isatty() else ""  # to the end of the line
    line = f"{clear}{text}{end}".encode(errors="backslashreplace")
    if saying.acquire(timeout=SAY_SECONDS):
        writer = threading.Thread(target=write_said, args=(line,), daemon=True)
        writer.start()
        writer.join(SAY_SECONDS)


def write_said(line: bytes) -> None:
    """Write a line to standard error, and allow the next."""
    try:
        # Unbuffered, so that Python does not retry a failed write when it exits.
        with (
            contextlib.suppress(OSError),
            open(sys.stderr.fileno(), "wb", buffering=0, closefd=False) as stream,
        ):
            stream.write(line)
    finally:
        saying.release()


def counted(number: int, noun: str) -> str:
    """Return "1 message", "2 messages"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


# -- settings
def read_config(path: str) -> dict[str, str]:
    """Return DEFAULTS and the properties of an INI, in which paths are relative to the INI.

    Raises Failure, whose text quotes no value but a path.
    """
    parser = configparser.ConfigParser(interpolation=None, delimiters=("=",), default_section="")
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # keys as written
    try:
        with open(path, encoding="utf-8-sig") as file:
            mode = os.fstat(file.fileno()).st_mode
            parser.read_file(line.strip() for line in file)  # indented, it would continue a value
    except FileNotFoundError:
        command = "copy" if os.name == "nt" else "install -m 600"
        remedy = f"copy the example ({command} config.example.ini {path}) and edit it"
        raise Failure(f"{path} not found: {remedy}") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", "it is not UTF-8")
        raise Failure(f"{path} cannot be read: {reason}") from None
    except configparser.Error as error:  # its own text may quote a password
        bad = getattr(error, "errors", None)
        number = bad[0][0] if bad else getattr(error, "lineno", 0)
        raise Failure(f"{path}, line {number}: {INI_FORM}") from None
    if parser.sections() != ["kafka"]:
        raise Failure(f"{path}: {INI_FORM}: see config.example.ini")
    settings = {key: value for key, value in parser["kafka"].items() if value}
    settings.setdefault("group.id", f"{settings.get('sasl.username', '')}-group-1")
    check_settings(path, parser["kafka"], settings)
    base = os.path.dirname(os.path.realpath(path)) if stat.S_ISREG(mode) else ""  # else a pipe
    for key, value in settings.items():
        if key.endswith(".location") and value != "probe":  # ssl.ca.location = probe: the system's
            settings[key] = os.path.join(base, os.path.expanduser(value))
            if not os.access(settings[key], os.R_OK):
                raise Failure(f"{path}: {key}: there is no readable file {settings[key]}")
    if os.name == "posix" and mode & 0o044:
        say(f"warning: others may read the password in {path}: chmod 600 {path}")
    return {**DEFAULTS, **settings}


def check_settings(path: str, written: Iterable[str], settings: dict[str, str]) -> None:
    """Refuse what librdkafka or its binding would take amiss. Raises Failure."""
    for key in written:
        name = re.sub(r"[^a-zA-Z0-9._-].*", "", key)  # what follows may be a password
        if name != key:
            raise Failure(f"{path}: there is more, perhaps invisible, at {name!r}: {INI_FORM}")
        if ("_" in key and key != "log_level") or key in ("logger", "default.topic.config"):
            raise Failure(f"{path}: {key} is for programs, and cannot be set here")
    for key, value in settings.items():
        if value.startswith(("YOUR_USERNAME", "YOUR_PASSWORD")):
            raise Failure(f"{path} is still the example: put in your own {key}")
        if "\0" in value:
            raise Failure(f"{path}: {key} holds a NUL character")
        if key in ("bootstrap.servers", "client.id") and re.search("[\"']", value):
            raise Failure(f"{path}: {key}: write it without quotes")
    if "bootstrap.servers" not in settings or settings["group.id"] == "-group-1":
        required = "bootstrap.servers and sasl.username are required (without a login: group.id)"
        raise Failure(f"{path}: {required}")


def start_time(text: str) -> int:
    """Return what --from means: OFFSET_BEGINNING, OFFSET_END, or milliseconds since 1970."""
    if text in ("beginning", "end"):
        return OFFSET_BEGINNING if text == "beginning" else OFFSET_END
    try:
        if ago := re.fullmatch(r"([0-9]{1,9})([mhd])", text):
            moment = time.time() - int(ago[1]) * {"m": 60, "h": 3600, "d": 86400}[ago[2]]
        elif re.fullmatch(r"[\d-]{10}T\d\d:\d\d(:\d\d)?(Z|[+-]\d\d:\d\d)?", text):
            moment = datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
        else:
            raise ValueError
    except (ValueError, OverflowError, OSError):  # OSError: Windows, before 1970
        raise argparse.ArgumentTypeError(f"must be {START_FORMS}, not {text!r}") from None
    if moment > time.time():
        raise argparse.ArgumentTypeError(f"{text} is in the future")
    return max(0, int(moment * 1000))  # a negative timestamp means latest (-1) or earliest (-2)


# -- a message and its line
LZ4_MAGIC = b"\x04\x22\x4d\x18"  # 0x184D2204, little endian: LZ4 Frame Format, "General Structure"
# RFC 8259, section 7, forbids these in a string.
CONTROLS_TO_SPACES = bytes.maketrans(bytes(range(32)), b" " * 32)
lz4_context = create_decompression_context()  # one for each message would take twice the time


def decompress(value: bytes) -> bytes:
    """Return what the LZ4 frames in `value` hold, one after the other.

    Return `value` itself unless it is only whole frames that hold at most MAX_INFLATED bytes.
    """
    parts = []
    budget, position = MAX_INFLATED, 0
    part: bytes
    # One frame per call: given all at once, liblz4 silently skips "skippable" frames.
    while value.startswith(LZ4_MAGIC, position):
        rest = memoryview(value)[position:] if position else value  # a slice costs 0.8 µs
        try:
            part, consumed, complete = decompress_chunk(lz4_context, rest, budget + 1)
        except RuntimeError:
            complete = False
        if not complete or len(part) > budget:
            reset_decompression_context(lz4_context)
            return value
        if consumed == len(value):
            return part  # nearly always: a single frame
        parts.append(part)
        budget -= len(part)
        position += consumed
    return b"".join(parts) if position == len(value) else value


def json_string(content: bytes | None, encoding: bytes) -> bytes:
    """Return `content` as a JSON string: base64, and a field `encoding`, where it is not UTF-8."""
    if content is None:
        return b"null"
    try:
        text = content.decode()  # fails for what is not UTF-8
    except UnicodeDecodeError:
        return b'"%b", "%b": "base64"' % (base64.b64encode(content), encoding)
    if bytearray(content).translate(CONTROLS_TO_SPACES) != content:  # twice as fast as bytes'
        return encode_basestring(text).encode()
    # Only quotes and backslashes to escape, as in JSON: twice as fast as encode_basestring.
    return b'"%b"' % content.replace(b"\\", b"\\\\").replace(b'"', b'\\"')


def json_line(partition: int, offset: int, value: bytes | None, metadata: bytes = b"") -> bytes:
    """Return the line of a message: UTF-8 JSON, from which each byte of the value can be got back.

    `metadata` is what stands between offset and value (see metadata_fields).
    """
    string = json_string(None if value is None else decompress(value), b"encoding")
    form = b'{"partition": %d, "offset": %d, %b"value": %b}\n'
    return form % (partition, offset, metadata, string)


def metadata_fields(message: Message) -> bytes:
    """Return the fields of --metadata: the timestamp in milliseconds since 1970, and the key."""
    kind, milliseconds = message.timestamp()
    none = kind == confluent_kafka.TIMESTAMP_NOT_AVAILABLE
    timestamp = b"null" if none else b"%d" % milliseconds
    key = json_string(message.key(), b"key_encoding")
    return b'"timestamp": %b, "key": %b, ' % (timestamp, key)


# -- what goes wrong
HINTS = {  # name of an error's code -> what to check, with every setting that may be wrong
    "UNREACHABLE": "no connection to {servers}: check bootstrap.servers, the network, "
    "security.protocol, ssl.certificate.location and ssl.key.location",
    "LOST": "lost connection, or an address that the broker advertises cannot be reached",
    "COORDINATOR": "the coordinator of group {group} is not available",
    "_AUTHENTICATION": "login failed: check sasl.username, sasl.password (no quotes), "
    "other sasl.*, security.protocol",
    "_SSL": "TLS failed: check ssl.ca.location, ssl.endpoint.identification.algorithm (none where "
    "the certificate names no host), ssl.certificate.location, ssl.key.location, the dates in the "
    "certificates, and security.protocol",
    "_MAX_POLL_EXCEEDED": "output blocked, or machine asleep, for max.poll.interval.ms: "
    "joining the group again; {again}",
    "_BAD_MSG": "a damaged message (skip it with --from), a response over "
    "receive.message.max.bytes, or a server that is not Kafka",
    "_BAD_COMPRESSION": "a damaged message (skip it with --from)",
    "PROPERTY": "{config}: a wrong name or value",
    "_INVALID_ARG": "{config}: check the property named here; for TLS: do ssl.key.location and "
    "ssl.certificate.location belong together, are both PEM and long enough, is ssl.key.password "
    "or ssl.keystore.password right? Is sasl.mechanisms known?",
    "_AUTO_OFFSET_RESET": "auto.offset.reset = error, and there is no offset to begin at",
    "_FATAL": "refused by the group: check group.id, group.protocol, group.instance.id "
    "(each member needs its own)",
    "INCONSISTENT_GROUP_PROTOCOL": "refused by the group, whose other members divide partitions in "
    "another way: check partition.assignment.strategy, group.protocol and group.id",
    "UNKNOWN_TOPIC_OR_PART": "there is no topic {topic}: check --topic",
    "TOPIC_AUTHORIZATION_FAILED": "this user may not read topic {topic}: "
    "check --topic and sasl.username",
    "GROUP_AUTHORIZATION_FAILED": "this user may not use group {group}: check group.id "
    "(Bitquery's rule: it begins with the username)",
    "INVALID_SESSION_TIMEOUT": "the broker does not allow this session.timeout.ms",
}
ENDS_RUN = {  # what only a person can mend
    "_BAD_MSG",
    "_BAD_COMPRESSION",
    "_INVALID_ARG",
    "_AUTO_OFFSET_RESET",
    "_FATAL",
    "INCONSISTENT_GROUP_PROTOCOL",
    "TOPIC_AUTHORIZATION_FAILED",
    "GROUP_AUTHORIZATION_FAILED",
    "INVALID_SESSION_TIMEOUT",
}
CONNECTION_ERRORS = {  # these pass by themselves
    "_TRANSPORT",
    "_RESOLVE",
    "_TIMED_OUT",
    "_TIMED_OUT_QUEUE",
    "_ALL_BROKERS_DOWN",
}
COORDINATOR_ERRORS = {
    "_WAIT_COORD",
    "COORDINATOR_NOT_AVAILABLE",
    "COORDINATOR_LOAD_IN_PROGRESS",
    "NOT_COORDINATOR",
}
AUTH_ERRORS = {"_AUTHENTICATION", "_SSL"}  # end the run at its start, or after REFUSED_SECONDS
NOISE = re.compile(
    r"""\w+://                          # sasl_ssl://one.example:9093
    | /(bootstrap|\d+)(?=:\ )           # /bootstrap: or /1:
    | \ \(after\ \d+ms.*                # (after 3ms in state CONNECT)
    | :\ (broker\ cert|connecting\ to\ a\ P|recompile).*  # guesses that lead to wrong remedies
    | \s+$""",
    re.VERBOSE,
)


class Errors:
    """What an error becomes: the end of the run, or a warning.

    A wrong password: error_cb makes its sentence from HINTS and keeps it in `reason`. `ask` (at
    the start, once all brokers are down) or `check` (after REFUSED_SECONDS) raises it as a
    Failure. failure_said says it, before the goodbye, and Watch.wait returns 1.
    """

    def __init__(self, config: dict[str, str], arguments: argparse.Namespace) -> None:
        self.quiet = arguments.quiet
        again = "some are printed again"
        if skips_to_end(config):
            again = "messages that come meanwhile are skipped"
        self.placeholders = {  # of HINTS
            "again": again,
            "config": arguments.config,
            "group": config["group.id"],
            "servers": config["bootstrap.servers"],
            "topic": arguments.topic,
        }
        self.last_warned: dict[str, float] = {}  # kind of warning -> when it was given
        self.answered = False  # True once any broker has: from then on errors are temporary
        self.all_down = False  # before the first answer: each has failed, so waiting is useless
        self.reason = ""  # the best explanation so far of why there is no answer
        self.refused_since = 0.0  # login or TLS, without an answer in between; 0 for not at all
        self.refused_last = 0.0  # when last: two refusals an hour apart are two
        self.final: Failure | None = None  # raised by `poll`: error_cb runs in close(), too
        self.connection_lost = 0.0  # when last
        self.doubt: tuple[float, str] | None = None  # (when, why) of a loss not yet confirmed
        self.outage = False  # a loss was confirmed, and nothing has answered since
        self.interrupted = False  # the same, and no message has come since
        self.denied = False  # a node does not know the topic; confirm_topic decides

    def note(self, text: str, end: str = "\n") -> None:
        """Say what --quiet leaves out."""
        if not self.quiet:
            say(text, end)

    def warn(self, kind: str, text: str, retried: bool = False) -> None:
        """Warn, of each kind at most once a minute."""
        now = time.monotonic()
        if now - self.last_warned.get(kind, -QUIET_SECONDS) >= QUIET_SECONDS:
            self.last_warned[kind] = now
            say(f"warning: {text}{'; trying again until it works' if retried else ''}")

    def sentence(self, error: KafkaError, name: str = "") -> str:
        """Return a hint for the error's code, or for `name`, followed by librdkafka's words."""
        words = NOISE.sub("", error.str())
        name = name or error.name()
        if name in CONNECTION_ERRORS:
            name = "LOST" if self.answered else "UNREACHABLE"
        if name in COORDINATOR_ERRORS:
            name = "COORDINATOR"
        if re.search("onfiguration property|Expected bool|is not supported for", words):
            name = "PROPERTY"
        hint = HINTS.get(name, "").format(**self.placeholders)
        return f"{hint} ({words})" if hint else words

    def error_cb(self, error: KafkaError) -> None:
        """Take an error of librdkafka: keep what ends the run, remember the reason, or warn."""
        if error.name() == "_AUTHENTICATION" and "failed: Local: " in error.str():
            # The connection was lost in the middle of a login: that is no refusal.
            error = KafkaError(KafkaError._TRANSPORT, error.str())
        code, text, now = error.name(), self.sentence(error), time.monotonic()
        if code in AUTH_ERRORS:
            if not self.refused_since or now - self.refused_last >= QUIET_SECONDS:
                self.refused_since = now
            self.refused_last, self.reason = now, text
        elif not self.reason or (code != "_ALL_BROKERS_DOWN" and not self.refused_since):
            self.reason = text
        if code in ENDS_RUN:
            self.final = self.final or Failure(text)
        elif code == "UNKNOWN_TOPIC_OR_PART" and "logical offset" in error.str():
            # A node that is behind says so; librdkafka asks again each half second.
            self.warn("topic", error.str(), retried=True)
        elif code == "UNKNOWN_TOPIC_OR_PART":
            self.denied = True
        elif code in CONNECTION_ERRORS and self.answered:
            self.connection_lost = now
            self.doubt = self.doubt or (now, text)
        elif self.answered:
            self.warn(code, text)
        elif code == "_ALL_BROKERS_DOWN":
            self.all_down = True

    def retry_seconds(self) -> float:
        """Return how long a request of the start is repeated."""
        if self.answered:
            return LEADER_SECONDS
        if self.all_down:
            return 0 if self.refused_since else DOWN_SECONDS
        return START_SECONDS

    def refused_for_good(self) -> bool:
        """Tell whether login or TLS has been refused for REFUSED_SECONDS."""
        return self.refused_last - self.refused_since >= REFUSED_SECONDS

    def forget_refusals(self) -> None:
        """Forget refusals: some broker accepts this login."""
        self.refused_since = self.refused_last = 0.0

    def log(self, level: int, form: str, *arguments: str) -> None:
        """Take a line of librdkafka's log, as logging.Logger does. A reset has no callback."""
        text = re.sub(r"^.*\[thrd:.*?\]: ", "", form % arguments)
        if "offset reset" in text and re.search("Offset out of range|log truncation", text):
            gone = "messages were deleted before they were read, or the log was cut back"
            say(f"warning: {gone}: {text}")


# -- where partitions begin
def commits_offsets(config: dict[str, str]) -> bool:
    """Tell whether enable.auto.commit is on."""
    return config["enable.auto.commit"].lower() in ("true", "t", "1")


def starts_at_end(config: dict[str, str]) -> bool:
    """Tell whether auto.offset.reset is one of librdkafka's words for latest."""
    return config["auto.offset.reset"].lower() in ("latest", "largest", "end")


def skips_to_end(config: dict[str, str]) -> bool:
    """Tell whether messages of a rebalance are skipped, as nothing is committed."""
    return starts_at_end(config) and not commits_offsets(config)


def reset_policy(config: dict[str, str]) -> str:
    """Return the client's auto.offset.reset (see the table in start_offsets)."""
    if starts_at_end(config) and commits_offsets(config):
        return "earliest"
    return config["auto.offset.reset"]


def start_offsets(
    config: dict[str, str],
    moment: int | None,
    resumes: bool,
    offsets_at: Callable[[int], list[TopicPartition]],
) -> tuple[list[TopicPartition], str]:
    """Return the offsets to commit before the group is joined, and what the user is told.

    `moment` is --from (see start_time); `resumes`: the group has an offset of any partition;
    offsets_at(timestamp) asks the broker. Without --from, a partition with a committed offset
    begins there. All others begin so:

    --from  auto.offset.reset  auto.commit  group    begins at              added or deleted later
    given   any                any          any      that time (committed)  as in the other rows
    -       latest             true         new      the end (committed)    oldest message
    -       latest             true         resumes  oldest message         oldest message
    -       latest             false        any      the end                the end
    -       earliest           any          any      oldest message         oldest message
    -       error              any          any      nowhere: ends the run  nowhere: ends the run

    librdkafka does the rows without "(committed)", by reset_policy. Where the group has members,
    commit_missing commits at the assignment.
    """
    if moment is not None:
        ends = offsets_at(OFFSET_END)  # first: what comes between the requests is not skipped
        found = offsets_at(moment)
        offsets = [end if one.offset < 0 else one for one, end in zip(found, ends)]
        if moment < 0:
            return offsets, f"starts at the {'end' if moment == OFFSET_END else 'beginning'}"
        utc = datetime.datetime.fromtimestamp(moment / 1000, datetime.timezone.utc)
        return offsets, f"starts at {utc.isoformat(timespec='seconds').replace('+00:00', 'Z')}"
    if resumes:
        if not commits_offsets(config):
            return [], "begins at the group's committed offsets"
        return [], "resumes after the last message printed"
    if starts_at_end(config):
        # Committed, so that a restart does not begin at an end that is later.
        ends = offsets_at(OFFSET_END) if commits_offsets(config) else []
        return ends, "waits for new messages"
    if config["auto.offset.reset"].lower() == "error":
        return [], "has no offset to begin at"
    return [], "starts at the beginning"


# -- the two threads
HANGS = {  # what the worker does -> what is wrong where it hangs
    "write": "standard output is blocked: what it did not take will be printed by the next run",
    "sync": "the disk does not answer: what was printed last will be printed again",
    "client": "the broker does not answer, or the group waits for another member",
}


class Watch:
    """What the main thread and the worker know of each other.

    Once `stop` is set, `wait` watches `doing` and `unwritten`. If neither changes for
    STOP_SECONDS, the worker hangs: `wait` says the sentence of HANGS, and ends the process with
    status 1. Before `stop` it ends nothing.
    """

    def __init__(self) -> None:
        self.stop = False  # set by a signal, a closed console, the clock, and at the worker's end
        self.signalled = float("inf")  # set by the first signal: when; the second ends the process
        self.doing = "client"  # a key of HANGS, set by Output.write, Output.sync and `work`
        self.unwritten = 0  # set by the worker: bytes of the current write not yet accepted
        self.at_risk = False  # set by the worker: printed since a commit last succeeded
        self.failed = False  # an error has been said; no second one is needed
        self.finished = False  # set by the worker at its end; if not, a defect has ended it
        self.console_handler: object = None  # set by mind_console: ctypes holds no reference
        self.clock_ahead = float("-inf")  # set by check_clock: seconds, of the monotonic clock

    def fail(self, text: str) -> None:
        """Say what has gone wrong, unless an error was said before: one is enough."""
        if not self.failed:
            self.failed = True
            say(f"error: {text}")

    def on_signal(self, number: int, _: object) -> None:
        """Stop in order; at the second signal at once, wherever the worker hangs."""
        now = time.monotonic()
        if now - self.signalled > TWICE_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
            os._exit(128 + number)  # process 1 of a container: there the kernel ignores the default
        self.signalled = min(now, self.signalled)
        self.stop = True

    def mind_console(self, worker: threading.Thread) -> None:
        """Stop in order where a console of Windows is closed.

        Windows ends the process once its handler returns (Microsoft's HandlerRoutine), and that of
        Python for SIGBREAK returns at once.
        """
        if sys.platform != "win32":
            return
        import ctypes

        def handler(event: int) -> bool:
            if event in (signal.CTRL_C_EVENT, signal.CTRL_BREAK_EVENT):
                return False  # the next handler is Python's
            self.stop = True
            worker.join(STOP_SECONDS)
            return True

        self.console_handler = ctypes.WINFUNCTYPE(ctypes.c_int, ctypes.c_uint)(handler)
        ctypes.windll.kernel32.SetConsoleCtrlHandler(self.console_handler, True)

    def wait(self, worker: threading.Thread) -> int:
        """Wait for the worker's end; return the exit status.

        Once it is to stop, it may stand still for STOP_SECONDS: then the process ends here.
        """
        last_state, last_progress = ("", 0), time.monotonic()
        while worker.is_alive():
            worker.join(POLL_SECONDS)  # in short steps: on Windows Ctrl-C does not interrupt a join
            self.check_clock()
            now, state = time.monotonic(), (self.doing, self.unwritten)
            if not self.stop or state != last_state:
                last_state, last_progress = state, now
            elif now - last_progress > STOP_SECONDS:
                self.say_what_hangs()
                os._exit(1)
        return 0 if self.finished and not self.failed else 1

    def check_clock(self) -> None:
        """Stop with an error where the wall clock, by which librdkafka waits, was set back."""
        ahead = time.time() - time.monotonic()
        back, self.clock_ahead = self.clock_ahead - ahead, ahead
        if back > CLOCK_SECONDS and not self.stop:
            self.fail(f"the clock was set back by {back:.0f} s, so the client waits: run it again")
            self.stop = True

    def say_what_hangs(self) -> None:
        """Say what the worker hangs in, unless an error was said and nothing more is at risk."""
        hang = HANGS[self.doing]
        if self.doing == "client" and self.at_risk:
            say(f"error: {hang}; what was printed last may be printed again")
        else:
            self.fail(hang)


# -- standard output
class Output:
    """Standard output: a file, a pipe or a terminal."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.descriptor = sys.stdout.fileno()
        self.terminal = sys.stdout.isatty()
        # Unbuffered: a buffered line could fail to be written after its offset was stored.
        self.stdout = open(self.descriptor, "wb", buffering=0, closefd=False)
        self.is_file = stat.S_ISREG(os.fstat(self.descriptor).st_mode)
        self.piece = PIECE_BYTES  # set by write: most bytes of its next call
        self.syncs = self.is_file  # set to False where a file cannot be synced
        self.unsynced = False  # set by write: there is something to sync
        self.reader_poll: Any = None  # tells that the reader has gone
        if not self.is_file and hasattr(select, "poll"):  # Windows has none
            self.reader_poll = select.poll()
            self.reader_poll.register(self.descriptor, 0)

    def prepare(self) -> None:
        """End the half line that a killed run may have left in a file, and enlarge a pipe.

        Raises OSError.
        """
        if self.is_file and os.fstat(self.descriptor).st_size and self.last_byte() != b"\n":
            self.write(b"\n")
        with contextlib.suppress(ImportError, AttributeError, OSError):  # no pipe, or not Linux
            import fcntl

            if fcntl.fcntl(self.descriptor, fcntl.F_GETPIPE_SZ) < PIPE_BYTES:
                fcntl.fcntl(self.descriptor, fcntl.F_SETPIPE_SZ, PIPE_BYTES)

    def last_byte(self) -> bytes:
        """Return the file's last byte; nothing where it may not be read."""
        with contextlib.suppress(OSError), open(f"/dev/fd/{self.descriptor}", "rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1)
        with contextlib.suppress(OSError):  # Windows
            os.lseek(self.descriptor, -1, os.SEEK_END)
            return os.read(self.descriptor, 1)
        return b""

    def reader_gone(self) -> bool:
        """Tell whether the program at the other end of a pipe or socket has gone."""
        return self.reader_poll is not None and bool(self.reader_poll.poll(0))

    def write(self, lines: bytes | bytearray) -> int:
        """Write all of `lines`, to a file all or none; return how many bytes. Raises OSError."""
        if self.terminal:
            lines = TERMINAL_CONTROLS.sub(lambda found: b"\\u%04x" % ord(found[0].decode()), lines)
        if not lines:
            return 0
        rest = memoryview(lines)
        self.watch.doing = "write"
        self.unsynced = self.syncs
        try:
            while rest:
                self.watch.unwritten = len(rest)
                began = time.monotonic()
                # A file at once: another program may append to it between two calls.
                written = self.stdout.write(rest if self.is_file else rest[: self.piece])
                slow = time.monotonic() - began > SLOW_SECONDS
                self.piece = SLOW_PIECE_BYTES if slow else PIECE_BYTES
                if written is None:  # a program that shares it has made it non-blocking
                    os.set_blocking(self.descriptor, True)
                rest = rest[written or 0 :]
        except OSError:
            self.remove_part(len(lines) - len(rest))
            raise
        self.watch.doing, self.watch.unwritten = "client", 0
        return len(lines)

    def remove_part(self, size: int) -> None:
        """Cut what a failed write has left at the end of a file: half a line would stay there."""
        with contextlib.suppress(OSError):
            end = os.lseek(self.descriptor, 0, os.SEEK_CUR)
            if self.is_file and size and os.fstat(self.descriptor).st_size == end:  # nobody else's
                os.ftruncate(self.descriptor, end - size)
                os.lseek(self.descriptor, end - size, os.SEEK_SET)

    def sync(self) -> None:
        """Wait until the disk has what was written to a file. Raises OSError."""
        if not self.unsynced:
            return
        self.watch.doing = "sync"
        try:
            getattr(os, "fdatasync", os.fsync)(self.descriptor)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            self.syncs = False
        self.unsynced = False
        self.watch.doing = "client"


# -- the consumer in its group
def by_partition(found: Iterable[TopicPartition]) -> dict[int, int]:
    """Return the offsets of an answer by their partitions."""
    return {one.partition: one.offset for one in found}


def first_error(found: Iterable[Any]) -> KafkaError | None:
    """Return the first error in the parts of an answer."""
    return next((one.error for one in found if one.error is not None), None)


class GroupConsumer:
    """A member of the consumer group.

    Offsets are stored in `store` only. librdkafka commits them: each auto.commit.interval.ms, in
    a rebalance, and in close(). Three places commit at once: `start`, where a new group or --from
    begins; commit_missing, where `start` was refused because the group has members; and
    commit_stored, at the end of the run.
    """

    def __init__(
        self, config: dict[str, str], arguments: argparse.Namespace, output: Output
    ) -> None:
        """Make a client that has yet to connect. Raises Failure where a property is wrong."""
        self.config = config
        self.output = output
        self.watch = output.watch
        self.errors = Errors(config, arguments)
        self.topic = arguments.topic
        self.group = config["group.id"]
        self.exit_at_end = arguments.exit_at_end
        self.end_offsets: dict[int, int] = {}  # set by `start`: of partitions not yet at their end
        # set by `start`; commit_missing takes out what is committed, confirm_topic all
        self.offsets_to_commit: list[TopicPartition] = []
        self.greeting = ""  # set by `start` where it is true only after the assignment
        # set by a rebalance: None while it goes on; empty where other members have all
        self.assigned: set[int] | None = None
        self.unassigned_since = 0.0  # set by subscribe and `forget`
        self.received = 0.0  # set by `poll`: when the last message came
        self.unstored: dict[int, Message] = {}  # set by print_messages: the last of each partition
        # set by on_revoke: raised there, it would hinder the unassign
        self.sync_error: OSError | None = None
        self.uncommitted = ""  # set by on_commit: why the last commit failed
        self.places: dict[int, int] = {}  # set by `look`: where each partition stood
        self.ends: dict[int, int] = {}  # set by `look`: the end offset of each that did not move
        self.caught_up = 0.0  # set by `poll`: when the local queue was empty
        self.looked = 0.0  # set by `look`, by subscribe, and by on_assign to look at once
        self.unanswered_since = 0.0  # set by `look`: since when it has no answer; 0: it has
        self.denied_since = 0.0  # set by confirm_topic: since when Metadata does; 0: no
        self.renewed = float("-inf")  # set by `renew`: when
        self.client = self.new_client()  # set by `renew`, too

    def new_client(self) -> Consumer:
        """Return a client that has yet to connect. Raises Failure."""
        own: dict[str, Any] = {
            "error_cb": self.errors.error_cb,
            "on_commit": self.on_commit,
            "auto.offset.reset": reset_policy(self.config),
            "enable.auto.offset.store": False,  # `store` does it
            "enable.partition.eof": self.exit_at_end,
            "statistics.interval.ms": 0,  # nobody would take them while standard output is blocked
        }
        if "debug" not in self.config:  # with a logger, debug lines would wait for poll()
            own |= {"logger": self.errors, "log_level": 6}
        try:
            return Consumer({**self.config, **own})
        except KafkaException as error:
            raise Failure(self.errors.sentence(error.args[0])) from None
        except (TypeError, ValueError) as error:
            raise Failure(f"{self.errors.placeholders['config']}: {error}") from None

    def start(self, moment: int | None) -> None:
        """Commit where the group begins (see start_offsets), and subscribe.

        Raises Failure, and InterruptedError where the run is to stop.
        """
        partitions = self.ask(self.topic_partitions, ends_with="UNKNOWN_TOPIC_OR_PART")
        of_group = self.ask(self.committed, partitions, unanswered="COORDINATOR")
        resumes = any(one.offset >= 0 for one in of_group)

        def of_topic(timestamp: int) -> list[TopicPartition]:
            return self.ask(self.offsets_at, timestamp, partitions)

        if self.exit_at_end:
            self.end_offsets = by_partition(of_topic(OFFSET_END))
        offsets, text = start_offsets(self.config, moment, resumes, of_topic)
        if offsets or resumes:
            self.errors.placeholders["again"] = "some are printed again"
        greeting = f"{counted(len(partitions), 'partition')}, group {self.group}: {text}"

        def commit_start(_: float) -> list[TopicPartition]:
            return self.commit(offsets=offsets)

        # Kafka refuses this commit where the group has members, be it for another topic.
        if offsets and not self.ask(commit_start, unanswered="COORDINATOR"):
            if moment is not None:
                remedy = (
                    "stop every consumer of the group (one that was killed, or has a "
                    "group.instance.id, counts until session.timeout.ms has passed)"
                )
                text = f"--from moved nothing, because group {self.group} is in use"
                raise Failure(f"{text}: {remedy}, or set another group.id")
            self.offsets_to_commit, self.greeting = offsets, greeting
        else:
            self.errors.note(f"{self.topic}: {greeting}")
        self.subscribe()  # only now: until here a message that comes would be lost

    def subscribe(self) -> None:
        """Join the group."""
        self.unassigned_since = self.looked = time.monotonic()
        self.unanswered_since = 0.0
        self.client.subscribe(
            [self.topic],
            on_assign=self.on_assign,
            on_revoke=self.on_revoke,
            on_lost=self.on_lost,
        )

    # requests
    def topic_partitions(self, seconds: float) -> list[TopicPartition]:
        """Return the topic's partitions, by Metadata. Raises KafkaException where it has none."""
        found = self.client.list_topics(self.topic, timeout=seconds).topics.get(self.topic)
        if found is None:  # a proxy may leave it out
            raise KafkaException(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART))
        if found.error is not None:
            raise KafkaException(found.error)
        return [TopicPartition(self.topic, partition) for partition in found.partitions]

    def offsets_at(
        self, timestamp: int, partitions: Sequence[TopicPartition], seconds: float
    ) -> list[TopicPartition]:
        """Return the offsets of a timestamp (see start_time). Raises KafkaException."""
        if not partitions:
            return []
        asked = [TopicPartition(self.topic, one.partition, timestamp) for one in partitions]
        found = self.client.offsets_for_times(asked, timeout=seconds)
        if (error := first_error(found)) is not None:
            raise KafkaException(error)
        # Without the leader epoch: Redpanda gives today's beside an old offset, and librdkafka
        # would then commit nothing that was written under an earlier leader.
        return [TopicPartition(self.topic, one.partition, one.offset) for one in found]

    def committed(self, partitions: list[TopicPartition], seconds: float) -> list[TopicPartition]:
        """Return the group's offsets, negative where there are none. Raises KafkaException."""
        try:
            return self.client.committed(partitions, timeout=seconds)
        except KafkaException as raised:
            if raised.args[0].name() == "GROUP_ID_NOT_FOUND":
                return partitions
            raise

    def commit(self, **offsets: list[TopicPartition]) -> list[TopicPartition]:
        """Commit `offsets`, or what is stored, and return the outcome. Raises KafkaException."""
        return self.client.commit(asynchronous=False, **offsets) or []

    def ask(
        self,
        request: Callable[..., list[Any]],
        *arguments: Any,
        ends_with: str = "",
        unanswered: str = "",
    ) -> list[Any]:
        """Repeat request(*arguments, seconds) until it succeeds, and return its list.

        [] where a commit is refused because the group has members. `ends_with`: one more code that
        ends the run. `unanswered`: the hint if brokers answer, but not this request. Raises Failure
        in the end, and InterruptedError once the run is to stop.
        """
        began = time.monotonic()
        while not self.watch.stop:
            waited = time.monotonic() - began
            try:
                # librdkafka drops an answer that comes after the timeout, so each try waits longer.
                found = request(*arguments, min(ANSWER_SECONDS, POLL_SECONDS + waited / 3))
                self.errors.answered, self.errors.reason = True, ""
                error = first_error(found)
            except KafkaException as raised:
                error = raised.args[0]
                self.errors.answered |= error.code() > 0  # Kafka's own codes: a broker sent it
            if error is None:
                return found
            if error.name() in ("UNKNOWN_MEMBER_ID", "FENCED_INSTANCE_ID"):
                return []
            if error.name() in ENDS_RUN or error.name() == ends_with:
                raise Failure(self.errors.sentence(error))
            self.poll(1)  # calls error_cb
            if time.monotonic() - began > self.errors.retry_seconds():
                if self.errors.answered and error.name() not in CONNECTION_ERRORS:
                    raise Failure(self.errors.sentence(error))
                hint = unanswered if self.errors.answered else ""
                raise Failure(self.errors.reason or self.errors.sentence(error, hint))
        raise InterruptedError

    # rebalances
    def on_assign(self, client: Consumer, partitions: list[TopicPartition]) -> None:
        """Take an assignment; the binding then applies it, and librdkafka asks where to begin."""
        new = {one.partition for one in partitions} | (self.assigned or set())
        self.assigned = new if new or self.told_of_none() else None
        self.places, self.ends, self.looked = {}, {}, float("-inf")
        self.uncommitted = ""
        self.errors.forget_refusals()
        if self.offsets_to_commit and partitions:
            self.commit_missing(partitions)
        if self.greeting:
            self.errors.note(f"{self.topic}: {self.greeting}")
            self.greeting = ""
        others = f": other members of group {self.group} have them" if not new else ""
        count = counted(len(new), "partition")
        self.errors.note(f"{self.topic}: assigned {count}{others}")

    def commit_missing(self, partitions: list[TopicPartition]) -> None:
        """Commit the start of assigned partitions without one, before librdkafka asks."""
        try:
            committed = self.committed(partitions, ANSWER_SECONDS)
            known = {one.partition: one.offset for one in committed if one.error is None}
            offsets = [one for one in self.offsets_to_commit if known.get(one.partition, 0) < 0]
            error = first_error(self.commit(offsets=offsets)) if offsets else None
        except KafkaException as raised:
            error = raised.args[0]
        if error is not None:
            self.greeting = ""
            text = f"begins at the oldest message, as no commit works: {error.str()}"
            self.errors.warn("start", text)
            return
        self.offsets_to_commit = [
            one for one in self.offsets_to_commit if one.partition not in known
        ]

    def on_revoke(self, client: Consumer, partitions: list[TopicPartition]) -> None:
        """Store what was printed: librdkafka commits it before the partitions go."""
        try:
            self.store()
        except OSError as error:
            self.sync_error = error
        self.forget(partitions)

    def on_lost(self, client: Consumer, partitions: list[TopicPartition]) -> None:
        """Drop what is not stored of partitions taken away: their new owner prints it again."""
        for one in partitions:
            self.unstored.pop(one.partition, None)
        self.forget(partitions)

    def forget(self, partitions: list[TopicPartition]) -> None:
        """Take partitions out of the assignment; None if none are left."""
        left = (self.assigned or set()) - {one.partition for one in partitions}
        self.assigned = left or None
        self.unassigned_since = time.monotonic()

    def on_commit(self, error: KafkaError | None, partitions: list[TopicPartition]) -> None:
        """Take the outcome of a commit."""
        error = error if error is not None else first_error(partitions)
        if error is not None and error.code() == KafkaError._NO_OFFSET:
            return  # nothing was sent
        if error is None:
            self.uncommitted = ""
        else:
            words = error.str().removeprefix("Commit failed: ")
            outcome = f"offsets were not committed ({words})"
            self.uncommitted = f"what was printed may be printed again: {outcome}"
            self.errors.warn("commit", self.uncommitted)
        self.watch.at_risk = bool(self.unstored or self.uncommitted)

    # messages
    def poll(self, count: int) -> list[Message]:
        """Return up to `count` messages: what comes within POLL_SECONDS, and is there by then.

        Raises Failure, and OSError where a sync in a rebalance has failed.
        """
        first = self.client.poll(POLL_SECONDS)
        # What has come by now: waiting until a batch is full would be latency.
        batch = [] if first is None else [first, *self.client.consume(count - 1, 0)]
        if self.errors.final is not None:
            raise self.errors.final
        if self.sync_error is not None:
            raise self.sync_error
        if batch:
            self.received = time.monotonic()
        if len(batch) < count:
            self.caught_up = time.monotonic()
        failed = [(one, error) for one in batch if (error := one.error()) is not None]
        for message, error in failed:
            if error.name() == "_PARTITION_EOF":
                self.end_offsets.pop(message.partition() or 0, None)
            else:
                self.errors.error_cb(error)
        return [one for one in batch if one.error() is None] if failed else batch

    def store(self) -> None:
        """Store the offsets of what was printed, once the disk has it. Raises OSError.

        Offsets are stored here and nowhere else. Not while a node denies the topic: the client
        may have gone on in one that was made anew, where it was in the old one.
        """
        if self.errors.denied:
            return
        try:
            self.output.sync()
        except OSError:
            self.unstored.clear()  # nothing of what the sync was to cover is committed
            raise
        for message in self.unstored.values():
            with contextlib.suppress(KafkaException):  # lost in a rebalance: others print it again
                self.client.store_offsets(message)
        self.unstored.clear()

    def commit_stored(self) -> None:
        """Commit what was stored, and take the outcome.

        Of a commit that is under way, or waits for a coordinator, close() tells nothing.
        """
        if not self.assigned or not commits_offsets(self.config):
            return
        try:
            self.on_commit(None, self.commit())
        except KafkaException as raised:
            self.on_commit(raised.args[0], [])

    def at_end(self) -> bool:
        """Tell whether --exit-at-end ends the run.

        It does once all assigned partitions have reached the ends of when it started, and at once
        where the group says that other members have all. In a rebalance (`assigned` is None) it
        goes on. Where the group says nothing, is_spare decides.
        """
        if not self.exit_at_end:
            return False
        if self.assigned is None:
            return self.is_spare()
        unfinished = [
            TopicPartition(self.topic, partition)
            for partition in self.assigned
            if partition in self.end_offsets
        ]
        positions = self.client.position(unfinished)
        return all(one.offset >= self.end_offsets[one.partition] for one in positions)

    def is_spare(self) -> bool:
        """Tell whether a member has had no partitions for long, where the group does not say so.

        While the coordinator is away, or the group waits for a member that was killed, it has
        none, either. So the wait begins again with each lost connection, and exceeds a session.
        """
        digits = self.config.get("session.timeout.ms", "")
        session = int(digits) / 1000 if digits.isdecimal() else SESSION_SECONDS
        waited = time.monotonic() - max(self.unassigned_since, self.errors.connection_lost)
        return not self.told_of_none() and waited > session + SPARE_SECONDS and self.answers()

    def say_who_has_it(self) -> None:
        """Say, also with --quiet, where a member without partitions has nothing to print."""
        if not self.assigned:
            others = f"other members of group {self.group} have its partitions"
            say(f"warning: nothing of {self.topic} was left to print: {others}")

    def told_of_none(self) -> bool:
        """Tell whether an empty assignment is final.

        KIP-848 sends none; a cooperative group first sends one to each new member.
        """
        strategy = self.config.get("partition.assignment.strategy", "")
        return self.config.get("group.protocol") != "consumer" and "cooperative" not in strategy

    def lag(self) -> int | str:
        """Return how many messages have yet to be printed, by what the client knows."""
        total = 0
        assigned = self.client.assignment()
        for one in self.client.position(assigned):
            oldest, end = self.client.get_watermark_offsets(one, cached=True)
            place = max(one.offset, self.places.get(one.partition, -1))
            if end < 0 or place < 0:
                return "unknown"
            end = max(end, self.ends.get(one.partition, end))  # while each Fetch is refused
            total += max(0, end - max(place, oldest))
        return total if assigned else "unknown"

    # whom to believe
    def check(self) -> None:
        """Once a second: look for itself at what may be wrong. Raises Failure."""
        errors, now = self.errors, time.monotonic()
        if errors.denied:
            self.confirm_topic()
        if errors.refused_for_good():
            if not self.answers():
                raise Failure(errors.reason)
            errors.forget_refusals()
        if errors.doubt is not None and now - errors.doubt[0] >= DOWN_SECONDS:
            if not self.answers(self.client.assignment()):
                errors.outage = errors.interrupted = True
                errors.warn("connection", errors.doubt[1], retried=True)
            errors.doubt = None
        waits = self.assigned is None and now - self.unassigned_since >= GROUP_SECONDS
        if waits and not errors.outage and not self.unanswered_since:
            text = (
                "no partitions assigned yet: the group still counts a consumer that was killed, "
                "waits for another member or its coordinator, or has more members than partitions"
            )
            errors.warn("group", text, retried=True)
        if now - self.looked >= LOOK_SECONDS:
            self.look()

    def answers(self, partitions: Sequence[TopicPartition] = ()) -> bool:
        """Tell whether the leaders of partitions answer; without any, whether some node does."""
        try:
            if partitions:
                self.offsets_at(OFFSET_END, partitions, ANSWER_SECONDS)
            else:
                self.topic_partitions(ANSWER_SECONDS)
        except KafkaException:
            return False
        return True

    def confirm_topic(self) -> None:
        """Ask whether the topic that a node denied is there; if so, start a new client.

        Raises Failure where Metadata has denied it for LEADER_SECONDS.
        """
        now = time.monotonic()
        try:
            self.topic_partitions(ANSWER_SECONDS)
        except KafkaException as raised:
            error = raised.args[0]
            if error.name() != "UNKNOWN_TOPIC_OR_PART":
                self.denied_since = 0.0
                return
            self.denied_since = self.denied_since or now
            if now - self.denied_since > LEADER_SECONDS:
                raise Failure(self.errors.sentence(error)) from None
            return
        self.errors.denied, self.denied_since = False, 0.0
        self.offsets_to_commit = []  # if it was made anew, they are another topic's
        if now - self.renewed > LOOK_SECONDS:
            self.renew("topic", "a node did not know the topic, or it was made anew")

    def look(self) -> None:
        """Start a new client where a partition stands still, or nothing answers for long."""
        self.looked = time.monotonic()
        assigned = self.client.assignment()
        standing: dict[int, int] = {}
        try:
            if assigned:
                standing = self.standing_still(assigned)
            else:
                self.topic_partitions(ANSWER_SECONDS)
        except KafkaException as raised:
            error = raised.args[0]
            if not assigned and error.name() == "UNKNOWN_TOPIC_OR_PART":
                self.errors.denied = True  # a client without partitions may not say so itself
                return
            self.unanswered_since = self.unanswered_since or self.looked
            unanswered = self.looked - self.unanswered_since
            # Where other partitions give messages, a new client would only stop them for a while.
            silent = min(unanswered, self.looked - self.received)
            text = self.errors.sentence(error)
            if silent >= OUTAGE_SECONDS:
                self.renew("outage", f"no answer for {silent:.0f} s: {text}")
            elif unanswered >= LOOK_SECONDS:
                text = f"a partition's leader does not answer: {text}"
                self.errors.warn("connection", text, retried=True)
            return
        self.unanswered_since = 0.0
        if not assigned:
            self.errors.outage = False  # else a message ends it
        if standing:
            names = ", ".join(map(str, standing))
            waiting = counted(sum(standing.values()), "message")
            text = f"partition {names} stands still with {waiting} to read"
            if len(standing) > 1:
                text = f"partitions {names} stand still with {waiting} to read"
            self.renew("standing", text)

    def standing_still(self, assigned: list[TopicPartition]) -> dict[int, int]:
        """Return the partitions that have not moved since the last look, with what waits in each.

        The broker is asked only for those: on a slow link, an answer that waits behind messages
        would come too late, and librdkafka would end the connection. Raises KafkaException.
        """
        last, places = self.places, by_partition(self.client.position(assigned))
        unread = [one for one in assigned if places[one.partition] < 0]
        for one in self.committed(unread, ANSWER_SECONDS) if unread else []:
            places[one.partition] = max(one.offset, -1)
        unmoved = [
            one for one in assigned if places[one.partition] in (-1, last.get(one.partition))
        ]
        ends = by_partition(self.offsets_at(OFFSET_END, unmoved, ANSWER_SECONDS))
        behind = [one for one in unmoved if places[one.partition] < ends[one.partition]]
        begins = by_partition(self.offsets_at(OFFSET_BEGINNING, behind, ANSWER_SECONDS))
        standing = {}
        for partition, begin in begins.items():
            end = ends[partition]
            if places[partition] < 0:  # nothing is committed
                first = end if skips_to_end(self.config) else begin
                places[partition] = last.get(partition, first)
            waiting = end - max(places[partition], begin)  # what is before `begin` was deleted
            if partition in last and waiting > 0:
                standing[partition] = waiting
        self.places, self.ends = places, ends
        # Else they wait in the local queue, behind a slow reader.
        return standing if self.looked - self.caught_up < ANSWER_SECONDS else {}

    def renew(self, kind: str, text: str) -> None:
        """Drop the client for a new one. Raises Failure.

        What is not committed is printed again; under skips_to_end, what comes meanwhile is skipped.
        Called by confirm_topic (a node denied the topic) and by `look` (a partition stands still,
        or nothing has answered for OUTAGE_SECONDS).
        """
        again = self.errors.placeholders["again"]
        wait = "the group first waits session.timeout.ms for the old one"
        self.errors.warn(kind, f"{text}: starting a new client ({wait}; {again})")
        self.unstored.clear()
        self.places, self.assigned, self.renewed = {}, None, time.monotonic()
        # The old one is not closed, so it does not leave the group: close() might hang. It goes
        # with its last reference. That might hang, too, so it has a thread of its own.
        old = [self.client]
        self.client = self.new_client()
        threading.Thread(target=old.clear, daemon=True).start()
        self.subscribe()


# -- the loop
class Progress:
    """What has been printed, and the line on standard error that says so."""

    def __init__(self, consumer: GroupConsumer, output: Output) -> None:
        self.consumer = consumer
        on_screen = sys.stderr.isatty()
        # Rewritten in place only if stdout is a file: a pipe's reader may write to the terminal.
        self.rewrite = on_screen and output.is_file and ESCAPES
        self.seconds = 1.0 if self.rewrite else LOG_SECONDS
        if on_screen and output.terminal:
            self.seconds = float("inf")  # none among the messages
        self.began = self.shown = time.monotonic()
        self.printed = self.bytes_printed = 0
        self.printed_before = self.bytes_before = 0  # of the last line
        self.newest = 0  # the latest timestamp of the last interval with messages, in milliseconds
        self.idle = True  # no message has come since the last line

    def show(self, now: float) -> None:
        """Say how fast it is and how much waits, where that is due."""
        seconds = now - self.shown
        if seconds < self.seconds:
            return
        speed = f"{(self.printed - self.printed_before) / seconds:.0f}/s"
        rate = f"{(self.bytes_printed - self.bytes_before) / seconds / 1e6:.1f} MB/s"
        text = f"{counted(self.printed, 'message')}, {speed}, {rate}, lag {self.consumer.lag()}"
        if self.newest > 0:
            age = datetime.timedelta(seconds=max(0, int(time.time() - self.newest / 1000)))
            text += f", newest {age} old"
        if self.rewrite:
            with contextlib.suppress(OSError):  # the terminal has been closed
                columns = os.get_terminal_size(sys.stderr.fileno()).columns or 80
                self.consumer.errors.note(text[: columns - 1], "\r")
        else:
            local_time = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
            self.consumer.errors.note(f"{local_time} {text}")
        self.shown, self.idle = now, True
        self.printed_before, self.bytes_before = self.printed, self.bytes_printed


def print_messages(consumer: GroupConsumer, output: Output, arguments: argparse.Namespace) -> None:
    """Print messages until there is a reason to stop. Raises Failure, KafkaException, OSError."""
    progress = Progress(consumer, output)
    output.prepare()
    limit = arguments.max_messages
    checked = stored = time.monotonic()
    try:
        while not output.watch.stop and progress.printed < limit:
            batch = consumer.poll(min(BATCH, limit - progress.printed))
            print_batch(batch, consumer, output, progress, arguments.metadata)
            if not batch and output.reader_gone():
                break
            now = time.monotonic()
            if not output.is_file or now - stored >= SYNC_SECONDS:
                consumer.store()
                stored = now
            due = now - checked >= 1
            if (due or not batch) and consumer.at_end():
                consumer.say_who_has_it()
                break
            if due:
                consumer.check()
                checked = now
            progress.show(now)
    finally:
        elapsed = datetime.timedelta(seconds=int(time.monotonic() - progress.began))
        consumer.errors.note(f"stopped: {counted(progress.printed, 'message')} in {elapsed}")


def print_batch(
    batch: list[Message],
    consumer: GroupConsumer,
    output: Output,
    progress: Progress,
    metadata: bool,
) -> None:
    """Print messages, up to a write in which the run is told to stop."""
    lines = bytearray()
    printed = 0
    last: dict[int, Message] = {}
    for message in batch:
        # 0 for None, which they are by the binding's types only.
        partition, offset = message.partition() or 0, message.offset() or 0
        fields = metadata_fields(message) if metadata else b""
        lines += json_line(partition, offset, message.value(), fields)
        last[partition] = message
        printed += 1
        if len(lines) > WRITE_BYTES:
            progress.bytes_printed += output.write(lines)
            lines = bytearray()
            if output.watch.stop:
                break
    progress.bytes_printed += output.write(lines)
    if last:
        consumer.unstored |= last
        output.watch.at_risk = True
        consumer.errors.forget_refusals()
        if consumer.errors.interrupted:
            consumer.errors.outage = consumer.errors.interrupted = False
            consumer.errors.note(f"{consumer.topic}: messages come again")
        newest = max(one.timestamp()[1] for one in last.values())
        progress.newest = newest if progress.idle else max(progress.newest, newest)
        progress.idle = False
    progress.printed += printed


# -- main
@contextlib.contextmanager
def failure_said(consumer: GroupConsumer) -> Iterator[None]:
    """Say what has failed; no failure is a run that is to stop, or a reader that has gone."""
    try:
        yield
        return
    except Failure as error:
        text = str(error)
    except KafkaException as error:
        text = consumer.errors.sentence(error.args[0])
    except OSError as error:
        # On Windows EINVAL says that the reader of a pipe has gone.
        gone = os.name == "nt" and error.errno == errno.EINVAL and not consumer.output.is_file
        if gone or isinstance(error, (InterruptedError, ConnectionError)):
            return
        text = f"standard output: {error.strerror}"
    consumer.watch.fail(text)


def work(consumer: GroupConsumer, output: Output, arguments: argparse.Namespace) -> None:
    """Do all that touches Kafka and standard output, leaving the group included."""
    watch = output.watch
    try:
        try:
            with failure_said(consumer):
                consumer.start(arguments.moment)
                print_messages(consumer, output, arguments)
        finally:
            # From here on the STOP_SECONDS of `wait` run, also after a write that failed.
            watch.stop, watch.doing, watch.unwritten = True, "client", 0
            with failure_said(consumer):
                consumer.store()
                consumer.commit_stored()
    finally:
        watch.doing = "client"
        consumer.client.close()  # commits what is stored, and leaves the group
    if consumer.uncommitted:
        watch.fail(consumer.uncommitted)
    watch.finished = True


def run(arguments: argparse.Namespace) -> int:
    """Start the worker, and wait for its end or a signal; return the exit status (see main)."""
    if sys.stdout is None:
        say("error: standard output is closed")
        return 1
    try:
        watch = Watch()
        arguments.config = os.path.abspath(os.path.expanduser(arguments.config))
        config = read_config(arguments.config)
        output = Output(watch)
        consumer = GroupConsumer(config, arguments, output)
    except (Failure, OSError) as error:  # OSError: the current directory is gone
        say(f"error: {error}")
        return 2
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK"):
        number = getattr(signal, name, None)
        if number is None:  # Unix has no SIGBREAK, Windows no SIGHUP
            continue
        # nohup ignores SIGHUP, and `&` in a script SIGINT: they stay ignored.
        if name == "SIGTERM" or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, watch.on_signal)
    worker = threading.Thread(target=work, args=(consumer, output, arguments), daemon=True)
    watch.mind_console(worker)
    worker.start()
    return watch.wait(worker)


def new_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    client = f"confluent-kafka {confluent_kafka.__version__}"
    library = f"{client}, librdkafka {confluent_kafka.libversion()[0]}"
    parser = argparse.ArgumentParser(
        description="Print a Kafka topic as JSON Lines: see README.md",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    option = parser.add_argument
    option("--topic", required=True, action="append", help="the topic to read")
    option("--config", default="config.ini", metavar="FILE", help="settings [config.ini]")
    option(
        "--max-messages", type=int, default=sys.maxsize, metavar="N", help="stop after N messages"
    )
    option(
        "--from",
        dest="moment",
        type=start_time,
        metavar="WHEN",
        help=f"first reset the group to {START_FORMS}",
    )
    option(
        "--exit-at-end",
        action="store_true",
        help="stop when all that the topic holds now has been printed",
    )
    option("--metadata", action="store_true", help="print each message's timestamp and key, too")
    option("--quiet", action="store_true", help="say nothing but warnings and errors")
    option(
        "--version",
        action="version",
        version=f"%(prog)s {__version__}, {library}",
        help="what a bug report needs",
    )
    return parser


EXAMPLES = """examples:
  python consumer.py --topic tron.transactions.proto
  python consumer.py --topic tron.transactions.proto --from 30m --exit-at-end >> lines.jsonl
  python consumer.py --topic tron.transactions.proto --max-messages 10 --metadata | jq .key"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run with the arguments `argv`, by default the command line's; return the exit status.

    0: stopped by a signal, --max-messages or --exit-at-end, or the reader of the pipe has gone.
    1: Kafka or standard output fails. 2: wrong usage or a wrong INI. After a second signal, the
    process ends by that signal instead.
    """
    if sys.stderr is None:
        # Closed: occupy descriptor 2, or librdkafka would log into whatever file gets it.
        sys.stderr = open(os.devnull, "w")
    parser = new_parser()
    if not (sys.argv[1:] if argv is None else argv):
        say("for example: python consumer.py --topic tron.transactions.proto")
    arguments = parser.parse_args(argv)
    if len(arguments.topic) > 1:
        parser.error("argument --topic: one topic; for more, run it once for each")
    arguments.topic = arguments.topic[0]
    # librdkafka takes a name that begins with ^ as a regular expression.
    if not re.fullmatch(r"(?!\.{1,2}\Z)[a-zA-Z0-9._-]{1,249}", arguments.topic):
        parser.error("argument --topic: one name, of 1 to 249 characters out of a-z A-Z 0-9 . _ -")
    if arguments.max_messages < 1:
        parser.error("argument --max-messages: must be at least 1")
    return run(arguments)


if __name__ == "__main__":
    sys.exit(main())
