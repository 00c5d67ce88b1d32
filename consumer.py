#!/usr/bin/env python3
"""Print the messages of a Kafka topic as JSON Lines on standard output.

    $ python consumer.py --topic tron.broadcasted.transactions --max-messages 2
    tron.broadcasted.transactions: 3 of 3 partitions, group tron_user-group-1: waits for new messages
    {"partition": 0, "offset": 41, "value": "{\\"Chain\\":{\\"ChainId\\":\\"6d61696e6e6574\\"},…"}
    {"partition": 2, "offset": 17, "value": "{\\"Chain\\":{\\"ChainId\\":\\"6d61696e6e6574\\"},…"}
    stopped: 2 messages in 0:00:01, lag 0

A message counts as read only when its line has been written. So whatever kills the script, the next run of the
same group prints what is missing: every message at least once.

One thread does all that touches Kafka and standard output. What may hang, such as leaving the group, has a thread of
its own; the main thread only waits, for them and for signals.
"""

from __future__ import annotations

import argparse
import base64
import configparser
import contextlib
import copy
import datetime
import json
import os
import re
import signal
import stat
import sys
import threading
import time
from collections.abc import Callable, Sequence
from json.encoder import encode_basestring
from typing import Any

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a Ctrl-C during the imports is no traceback

try:
    import confluent_kafka
    from confluent_kafka import OFFSET_END, Consumer, KafkaError, KafkaException, Message, TopicPartition
    from lz4.frame import create_decompression_context, decompress_chunk, reset_decompression_context
except ImportError as missing:
    sys.exit(f"error: {missing}: activate the virtual environment, or make one: pip install -r requirements.txt")

__version__ = "1.1.0"

DEFAULTS = {  # the INI overrides them; [librdkafka's own]
    "auto.offset.reset": "latest",  # [largest, the same]
    "enable.auto.commit": "true",
    "fetch.queue.backoff.ms": "10",  # [1000] or fetching rests for a second each time the queue is full
    "queued.max.messages.kbytes": "8192",  # [65536] as fast, in half of the memory
    "auto.commit.interval.ms": "1000",  # [5000] bounds what is repeated after a kill
    "topic.metadata.propagation.max.ms": "5000",  # [30000] how long a deleted topic goes unnoticed
    "statistics.interval.ms": "5000",  # [0] for Errors.stats_cb
}

POLL_SECONDS = 0.2  # how late a signal is noticed when no message comes
ANSWER_SECONDS = 2  # for the answer to one request
START_SECONDS = 10  # in which the brokers have to answer; a slow link with TLS and SCRAM needs two or three
DOWN_SECONDS = 3  # the same once every address has failed: one host may have a second address
LEADER_SECONDS = 20  # for a request once they do; Kafka takes nine to replace a dead leader or coordinator
REFUSED_SECONDS = 10  # a login refused for so long is refused for good
QUIET_SECONDS = 60  # after so long a trouble is news again; librdkafka reports a lasting one every 30 s
LOG_SECONDS = 60.0  # between two progress lines in a log
FINISH_SECONDS = 1.5  # for the write in hand after a signal; then its reader is taken to stand still
CLOSE_SECONDS = 10  # for the last commit and leaving the group, also where the broker has gone
FAILED_CLOSE_SECONDS = 3  # the same after a failure, when there is little to wait for

BATCH = 100  # messages at the most between two looks at the signal and the clock
WRITE_BYTES = 1 << 16  # of lines are held until they are written; a megabyte, beyond the CPU's cache, is a tenth slower
PIPE_BYTES = 1 << 18  # [64 KB] in which the reader has work while the next lines are made: a quarter faster
MAX_INFLATED = 16 << 20  # bytes; the vendor's messages are at most 1 MB before decompression

START_FORMS = "beginning, end, 30m, 2h, 1d or 2026-11-23T10:00[:00][Z|+02:00] (local time without a zone)"
EXAMPLES = """\
examples:
  python consumer.py --topic tron.broadcasted.transactions --max-messages 5 | jq '.value | fromjson'
  python consumer.py --topic tron.broadcasted.transactions --from 2h --quiet > transactions.jsonl

Each line is {"partition": 0, "offset": 42, "value": "..."}. A value that is not UTF-8 is base64, and its line has
a fourth key, "encoding": "base64"; a tombstone's value is null. Ctrl-C stops, and the next run goes on from there.
"""


class Failure(Exception):
    """Ends the run; its text is the line for the user."""


class Stopped(Exception):
    """A signal came, and what was waited for, a broker or a reader that stands still, is given up."""


class Console:
    """Standard error: what is to be said beside the messages."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self.in_place = False  # the last line is one to be written over

    def say(self, text: str, in_place: bool = False) -> None:
        """Write a line; one in place is cut to the terminal's width, and the next one is written over it."""
        clear, self.in_place = "\r\x1b[K" if self.in_place else "", in_place
        with contextlib.suppress(OSError):  # nobody listens any more; the messages still count
            descriptor = sys.stderr.fileno()
            end = "" if in_place else "\n"
            width = (os.get_terminal_size(descriptor).columns or 80) - 1 if in_place else None
            # Past sys.stderr: what it cannot write it tries again at exit, and makes the exit status 120.
            os.write(descriptor, f"{clear}{text[:width]}{end}".encode(errors="backslashreplace"))

    def note(self, text: str, in_place: bool = False) -> None:
        """Say what --quiet leaves out."""
        if not self.quiet:
            self.say(text, in_place)


# -- settings


def read_config(path: str, console: Console) -> dict[str, str]:
    """Return librdkafka's properties from an INI, with this script's defaults. Raises Failure.

    Values are literal; `*.location` is relative to the INI; a key without a value counts as left out.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            settings = {key: value for key, value in parse_ini(path, file.read()).items() if value}
    except FileNotFoundError:
        command = "copy" if os.name == "nt" else "install -m 600"
        raise Failure(f"{path} not found: copy it ({command} config.example.ini {path}) and edit it") from None
    except OSError as error:
        raise Failure(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise Failure(f"{path} is not UTF-8: save it as such") from None

    for key in ("sasl.username", "sasl.password"):
        if settings.get(key) in ("YOUR_USERNAME", "YOUR_PASSWORD"):
            raise Failure(f"{path}: {key} is still the example's: put in your own")
    if "bootstrap.servers" not in settings:
        raise Failure(f"{path}: bootstrap.servers is missing")
    if "group.id" not in settings:
        if "sasl.username" not in settings:
            raise Failure(f"{path}: sasl.username is missing (without a login: group.id)")
        settings["group.id"] = f"{settings['sasl.username']}-group-1"
    secrets = [path]
    for key, value in settings.items():
        if key.endswith(".location") and value != "probe":  # ssl.ca.location = probe: the system's own
            location = os.path.join(os.path.dirname(os.path.abspath(path)), os.path.expanduser(value))
            if not os.access(location, os.R_OK):
                raise Failure(f"{path}: {key}: there is no readable file {location}")
            settings[key] = location
            secrets += [location] if key in ("ssl.key.location", "ssl.keystore.location") else []
    shared = [name for name in secrets if os.name == "posix" and os.stat(name).st_mode & 0o044]
    if shared:
        console.say(f"warning: others may read the secrets in {' and '.join(shared)}: chmod 600 {' '.join(shared)}")
    return {**DEFAULTS, **settings}


def parse_ini(path: str, text: str) -> dict[str, str]:
    """Return the keys of the one section [kafka] of an INI's text. Raises Failure, which never quotes a value."""
    lines = [line.strip() for line in text.split("\n")]  # without its indentation a line continues no value
    for number, line in enumerate(lines, 1):
        if "\0" in line or not re.fullmatch(r"(\[[^]]+\]|[#;].*|[\w.-]+\s*=.*)?", line):
            raise Failure(f'{path}, line {number} is not "key = value"')
    parser = configparser.ConfigParser(interpolation=None, delimiters=("=",), default_section="")
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # keys as written
    try:
        parser.read_string("\n".join(lines))
    except configparser.Error as error:  # its own text may quote a password
        number = getattr(error, "lineno", 0)
        raise Failure(f"{path}, line {number}: [kafka] must come first, and every key be there only once") from None
    if parser.sections() != ["kafka"]:
        raise Failure(f"{path} must have the section [kafka] and no other: see config.example.ini")
    return dict(parser["kafka"])


def start_time(text: str) -> int:
    """Return what --from means: OFFSET_BEGINNING, OFFSET_END, or milliseconds since 1970."""
    if text in ("beginning", "end"):
        return confluent_kafka.OFFSET_BEGINNING if text == "beginning" else OFFSET_END
    now = time.time()
    try:
        if ago := re.fullmatch(r"([0-9]{1,9})([mhd])", text):
            moment = now - int(ago[1]) * {"m": 60, "h": 3600, "d": 86400}[ago[2]]
        elif re.fullmatch(r"[\d-]{10}T\d\d:\d\d(:\d\d)?(Z|[+-]\d\d:\d\d)?", text):
            moment = datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
        else:
            raise ValueError
    except (ValueError, OverflowError, OSError):  # OSError: Windows, before 1970
        raise argparse.ArgumentTypeError(f"must be {START_FORMS}, not {text!r}") from None
    if moment > now:
        raise argparse.ArgumentTypeError(f"{text} is in the future")
    return max(0, int(moment * 1000))  # Kafka reads negative ones as beginning and end


# -- a message and its line

LZ4_MAGIC = b"\x04\x22\x4d\x18"  # 0x184D2204 in little endian: LZ4 Frame Format Description, "General Structure"
NO_CONTROLS = bytes.maketrans(bytes(range(32)), b" " * 32)  # JSON forbids them in a string: RFC 8259, section 7
lz4_context = create_decompression_context()  # one for all: a new one for each message takes twice the time


def decompress(value: bytes) -> bytes:
    """Return what the LZ4 frames in `value` hold, one after the other.

    Return `value` itself where it is not whole frames and nothing else, or they inflate to more than MAX_INFLATED.
    """
    parts, room, end = [], MAX_INFLATED, 0
    part: bytes
    while value.startswith(LZ4_MAGIC, end):  # at each frame: liblz4 would skip a skippable one, and its bytes be lost
        try:
            part, size, whole = decompress_chunk(lz4_context, memoryview(value)[end:] if end else value, room + 1)
        except RuntimeError:
            whole = False
        if not whole or len(part) > room:
            reset_decompression_context(lz4_context)
            return value
        if size == len(value):
            return part  # nearly always: a single frame
        parts.append(part)
        room -= len(part)
        end += size
    return b"".join(parts) if end == len(value) else value


def json_string(text: bytes) -> bytes:
    """Return UTF-8 text as a JSON string. Raises UnicodeDecodeError."""
    decoded = text.decode()
    if bytearray(text).translate(NO_CONTROLS) != text:  # twice as fast as bytes.translate
        return encode_basestring(decoded).encode()
    # JSON in JSON has a quote in every twelve bytes, for which encode_basestring takes up to twice as long.
    return b'"%b"' % text.replace(b"\\", b"\\\\").replace(b'"', b'\\"')


def json_line(partition: int, offset: int, value: bytes | None) -> bytes:
    """Return the line of a message: UTF-8 JSON with a newline, from which the value's every byte can be got back."""
    if value is None:
        text = b"null"
    else:
        content = decompress(value)
        try:
            text = json_string(content)
        except UnicodeDecodeError:
            text = b'"%b", "encoding": "base64"' % base64.b64encode(content)
    return b'{"partition": %d, "offset": %d, "value": %b}\n' % (partition, offset, text)


# -- what goes wrong

GROUP_OF_OTHERS = "this user may not use group {group}: group.id must begin with the username"
CLOSED = "the broker closed the connection: check security.protocol, a TLS port needs SASL_SSL"
# An error's code -> words in librdkafka's text -> what the user can do about it; the first words that fit count.
ADVICE = {
    KafkaError._AUTHENTICATION: {
        "failed: Local: ": "",  # the connection was lost in the middle of a login
        "SASL state": "this port takes no login: check security.protocol and the port in bootstrap.servers",
        "mechanism handshake failed": "the broker does not offer this kind of login: check sasl.mechanisms",
        "": "the login was refused: check sasl.username and sasl.password",
    },
    KafkaError._SSL: {
        "certificate verify failed": "the broker's certificate is not trusted: check ssl.ca.location, and the names in "
        "bootstrap.servers (a certificate that names no host needs ssl.endpoint.identification.algorithm = none)",
        "": "the broker offers no TLS that fits: check the ssl.* settings",
    },
    KafkaError._TRANSPORT: {
        "SSL alert": "the client certificate was refused: check ssl.certificate.location and ssl.key.location",
        "PLAINTEXT broker listener": "no TLS on this port: check security.protocol and the port in bootstrap.servers",
        "Send failed": CLOSED,
    },
    KafkaError._INVALID_ARG: {
        "key values mismatch": "ssl.key.location is not the key of the certificate in ssl.certificate.location",
        "no certificate assigned": "ssl.key.location is set, so ssl.certificate.location must be, too",
        "location failed": "this is not the right kind of file, or not in PEM format",
    },
    KafkaError.UNKNOWN_TOPIC_OR_PART: {"": "there is no topic {topic}: check --topic"},
    KafkaError.TOPIC_AUTHORIZATION_FAILED: {"": "this user may not read topic {topic}: check --topic, sasl.username"},
    KafkaError.GROUP_AUTHORIZATION_FAILED: {"": GROUP_OF_OTHERS},
    KafkaError.INVALID_SESSION_TIMEOUT: {"": "the broker does not allow this session.timeout.ms"},
    KafkaError._AUTO_OFFSET_RESET: {"": "auto.offset.reset = error, and there is no offset to begin at"},
    KafkaError._FATAL: {
        "Group authorization failed": GROUP_OF_OTHERS,
        "nstance": "another copy has the same group.instance.id",
    },
}
# These end the run only before a broker has answered (a login refused for REFUSED_SECONDS: also later), the other codes
# of ADVICE whenever they come.
CONNECTION = (KafkaError._AUTHENTICATION, KafkaError._SSL, KafkaError._TRANSPORT)
NOISE = re.compile(  # what only librdkafka's developers need, and its guesses
    r"^Failed to create consumer: |\b\w+://|/(bootstrap|\d+)(?=: )|: broker certificate could not .*"
    r"|: connecting to a PLAINTEXT broker.*| \(after \d+ms.*|\s+$"
    r"|: (\S+ )?error:\w+:SSL routines::ssl3 ext invalid servername"  # it has just forgotten the coordinator's address
    r"|\berror:\w+:[\w ]+::"
)


def plain(error: KafkaError) -> str:
    """Return librdkafka's text without NOISE."""
    return NOISE.sub("", error.str())


class Errors:
    """Turns librdkafka's errors, the outcome of commits and lines of its log into a warning or the end of the run."""

    def __init__(self, console: Console, topic: str, group_id: str) -> None:
        self.console, self.topic, self.group_id = console, topic, group_id
        self.connected = False  # True once a broker has answered
        self.reasons: dict[str, str] = {}  # until then: broker -> why it does not
        self.remedy = ""  # until then: the first reason that the user can mend
        self.all_down = False
        self.reported: dict[str, float] = {}  # kind of trouble -> when librdkafka last reported it
        self.refused_since: float | None = None  # the login, and no message has come since
        self.failure: Failure | None = None  # what ends the run: raised here, it could come out of close()
        self.no_brokers = False  # librdkafka knows none any more

    def advice(self, error: KafkaError) -> str:
        """Return what the user can do about an error, and librdkafka's text; nothing where ADVICE has nothing."""
        advice = next((each for words, each in ADVICE.get(error.code(), {}).items() if words in error.str()), "")
        return advice and f"{advice.format(topic=self.topic, group=self.group_id)} ({plain(error)})"

    def error_cb(self, error: KafkaError) -> None:
        """Warn of an error, keep why no broker answers yet, or set `failure` where only a person can help."""
        code, text, advice = error.code(), plain(error), self.advice(error)
        if code in ADVICE and code not in CONNECTION:
            self.failure = Failure(advice or text)
        elif not self.connected:
            if code == KafkaError._ALL_BROKERS_DOWN:
                self.all_down = True
            else:
                broker, _, reason = text.partition(": ")
                self.reasons[broker] = reason
                self.remedy = self.remedy or advice
        elif code == KafkaError._MAX_POLL_EXCEEDED:
            self.warn_once("reader", "standard output was blocked for max.poll.interval.ms: joining the group again")
        elif code == KafkaError._AUTHENTICATION and advice:
            self.warn_once("login", f"{text}; trying again for a while")
            self.refused_since = self.refused_since or time.monotonic()
            if time.monotonic() - self.refused_since > REFUSED_SECONDS:
                self.failure = Failure(advice)
        elif code == KafkaError._ALL_BROKERS_DOWN:
            self.warn_once("connection", "no broker can be reached; trying again until it works")
        elif code != KafkaError._PARTITION_EOF:
            lost = "lost connection: " if code in CONNECTION else ""
            self.warn_once("connection", f"{lost}{text}; trying again until it works")

    def raise_failure(self) -> None:
        """Raise what error_cb found to end the run."""
        if self.failure is not None:
            raise self.failure

    def check_start(self, waited: float, servers: str) -> None:
        """Raise Failure once every address has failed (one sick broker of three does not decide), or time is up."""
        if self.all_down and (self.remedy or not self.reasons):
            raise Failure(self.remedy or f"{CLOSED} ({servers})")
        if waited > (DOWN_SECONDS if self.all_down else START_SECONDS):
            reasons = "; ".join(f"{broker}: {reason}" for broker, reason in self.reasons.items()) or servers
            raise Failure(self.remedy or f"no broker answers: check bootstrap.servers and the network ({reasons})")

    def warn_once(self, kind: str, text: str) -> None:
        """Warn of a trouble that librdkafka reports again and again."""
        now = time.monotonic()
        if now - self.reported.get(kind, -QUIET_SECONDS) >= QUIET_SECONDS:
            self.console.say(f"warning: {text}")
        self.reported[kind] = now

    def on_commit(self, error: KafkaError | None, _: Partitions) -> None:
        """Take the outcome of a commit."""
        if error is not None and error.code() != KafkaError._NO_OFFSET:
            text = f"offsets were not committed, what was printed since may be printed again: {plain(error)}"
            self.warn_once("connection", text)  # for it mostly follows from one that was lost

    def stats_cb(self, statistics: str) -> None:
        """Notice that librdkafka has forgotten all brokers, as one that was going had told it to.

        It would never connect again: https://github.com/confluentinc/librdkafka/issues/5301
        """
        self.no_brokers = all(broker["source"] == "logical" for broker in json.loads(statistics)["brokers"].values())

    def log(self, level: int, form: str, *arguments: str) -> None:
        """Take librdkafka's log, as logging.Logger does. Only this of it has no callback, and matters."""
        text = re.sub(r"^.*\[thrd:.*?\]: ", "", form % arguments)
        if "offset reset" in text:
            self.console.say(f"warning: messages were deleted before they could be read: {text}")


# -- the group

Partitions = list[TopicPartition]
LATEST = ("latest", "largest", "end")  # the values of auto.offset.reset for the end


class Group:
    """Where the group begins to read each partition, and how far it has come: its offsets are stored only here.

    librdkafka commits what is stored each auto.commit.interval.ms, when a partition is taken away, and in close().
    """

    def __init__(self, path: str, config: dict[str, str], errors: Errors, stop: threading.Event) -> None:
        """Make a consumer, which has yet to connect. Raises Failure where `path` has a bad property."""
        self.path, self.config, self.errors, self.stop = path, config, errors, stop
        self.topic = errors.topic
        self.consumer = self.new_consumer()
        self.greeting = ""  # said with the first assignment
        self.unassigned = False
        self.start_offsets: dict[int, int] = {}  # where a new group begins, if neither committed nor the beginning
        self.positions: dict[int, int] = {}  # next offset to print: position() does not know a partition at rest

    def new_consumer(self) -> Consumer:
        """Return a consumer that has yet to connect. Raises Failure where a property is unknown or its value bad."""
        errors = self.errors
        overrides: dict[str, Any] = {
            "error_cb": errors.error_cb,
            "on_commit": errors.on_commit,
            "stats_cb": errors.stats_cb,
            # With a logger the lines of `debug` would wait in a queue for poll(); without one the library prints them.
            "logger": None if "debug" in self.config else errors,
            "enable.auto.offset.store": False,  # store_offsets does it, when the line has been written
        }
        if self.config["auto.offset.reset"].lower() in LATEST:
            overrides["auto.offset.reset"] = "earliest"  # `start` sees to new groups; others skip nothing that is kept
        try:
            return Consumer({**self.config, **overrides})
        except KafkaException as error:
            raise Failure(f"{self.path}: {errors.advice(error.args[0]) or plain(error.args[0])}") from None
        except (TypeError, ValueError, AttributeError) as error:  # the binding's own keys want Python objects
            raise Failure(f"{self.path}: {error}") from None

    def start(self, start: int | None) -> None:
        """Move the group to `start` (see start_time), or a new one to where auto.offset.reset says, and subscribe.

        A partition without a committed offset in a group that has others was added to the topic since: it is read
        from its first message. Raises Failure, Stopped; KafkaException where a request is not answered.
        """
        partitions = self.answer(self.describe_topic)
        committed = self.answer(self.consumer.committed, partitions)
        if start is not None:
            offsets = self.offsets_at(start, partitions)
            if not self.answer(self.commit, offsets):
                raise Failure(
                    f"--from moved nothing, because group {self.config['group.id']} is in use: stop its other copies "
                    "(a killed one leaves after session.timeout.ms), or set another group.id"
                )
            places = (f"partition {one.partition} at offset {one.offset}" for one in offsets)
            self.errors.console.note(f"--from: {', '.join(places)}")
            plan = "starts where --from says"
        elif any(one.offset >= 0 for one in committed):
            plan = "resumes after the last one printed"
        elif self.config["auto.offset.reset"].lower() in LATEST:
            plan = "waits for new messages"
            offsets = self.offsets_at(OFFSET_END, partitions)
            # Else what comes before the first commit would be lost with a restart, which would begin at the end again.
            commits = self.config["enable.auto.commit"].lower() in ("true", "t", "1")
            if not (commits and self.answer(self.commit, offsets)):  # refused where another copy has been faster
                self.start_offsets = {one.partition: one.offset for one in offsets}
        else:
            plan = "starts at the beginning"
        self.greeting = f"{len(partitions)} partitions, group {self.config['group.id']}: {plan}"
        self.consumer.subscribe([self.topic], on_assign=self.on_assign)

    def answer(self, request: Callable[..., Partitions], *asked: Partitions) -> Partitions:
        """Return what request(*asked, timeout=seconds) returns, tried again while it fails: a leader moves in seconds.

        Raises Failure, Stopped; KafkaException where it still fails after LEADER_SECONDS.
        """
        began = time.monotonic()
        while not self.stop.is_set():
            waited = time.monotonic() - began
            try:
                # An answer that comes too late is lost, so on a slow link it is waited for longer each time.
                found = request(*asked, timeout=min(ANSWER_SECONDS, POLL_SECONDS + waited / 3))
                for one in found:
                    if one.error is not None:
                        raise KafkaException(one.error)
                return found
            except KafkaException:
                message = self.consumer.poll(POLL_SECONDS / 10)  # calls error_cb; may have a reason itself
                if message is not None and (reason := message.error()) is not None:
                    self.errors.error_cb(reason)
                self.errors.raise_failure()
                if not self.errors.connected:
                    self.errors.check_start(waited, self.config["bootstrap.servers"])
                elif waited > LEADER_SECONDS:
                    raise
        raise Stopped

    def describe_topic(self, timeout: float) -> Partitions:
        """Return the topic's partitions, which proves connection, login and topic. Raises KafkaException."""
        found = self.consumer.list_topics(self.topic, timeout=timeout).topics[self.topic]
        self.errors.connected = True
        if found.error is not None:
            self.errors.error_cb(found.error)
            raise KafkaException(found.error)
        return [TopicPartition(self.topic, partition) for partition in found.partitions]

    def offsets_at(self, start: int, partitions: Partitions) -> Partitions:
        """Return the offsets of `start` (see start_time); the end where no message is as new as that."""

        def ask(timestamp: int) -> Partitions:
            asked = [TopicPartition(self.topic, one.partition, timestamp) for one in partitions]
            return self.answer(self.consumer.offsets_for_times, asked)

        ends = ask(OFFSET_END)  # first, or what comes between the two requests could be skipped
        offsets = ends if start == OFFSET_END else ask(start)
        return [end if found.offset < 0 else found for found, end in zip(offsets, ends)]

    def commit(self, offsets: Partitions, timeout: float) -> Partitions:
        """Commit offsets before the group has members; return them, none where it has some. `timeout` is not used."""
        try:
            return self.consumer.commit(offsets=offsets, asynchronous=False)
        except KafkaException as error:
            if error.args[0].code() == KafkaError.UNKNOWN_MEMBER_ID:
                return []
            raise

    def on_assign(self, consumer: Consumer, partitions: Partitions) -> None:
        """Begin to read what the group gives: at the committed offset, or where `start` says."""
        for one in partitions:
            self.positions.pop(one.partition, None)
        with contextlib.suppress(KafkaException):  # then librdkafka asks again
            partitions = consumer.committed(partitions, timeout=ANSWER_SECONDS)
            self.positions.update((one.partition, max(0, one.offset)) for one in partitions)
        self.unassigned = not partitions
        for one in partitions:
            if one.offset < 0 and one.partition in self.start_offsets:
                one.offset = self.positions[one.partition] = self.start_offsets[one.partition]
        strategy = self.config.get("partition.assignment.strategy", "")
        incremental = self.config.get("group.protocol", "").lower() == "consumer" or "cooperative" in strategy
        (consumer.incremental_assign if incremental else consumer.assign)(partitions)
        if self.greeting:
            self.errors.console.note(f"{self.topic}: {len(partitions)} of {self.greeting}")
            self.greeting = ""

    def after_callbacks(self) -> None:
        """Do what callbacks found to be done: in one, it could end the process (CallState_get in confluent-kafka)."""
        if self.unassigned:  # other copies have all partitions; or, with group.protocol = consumer, it was deleted
            self.unassigned = False
            with contextlib.suppress(KafkaException):
                self.describe_topic(ANSWER_SECONDS)
        if self.errors.no_brokers:  # what has yet to be committed is printed again
            self.errors.warn_once("connection", "lost connection: no broker is left; trying again until it works")
            threading.Thread(target=self.consumer.close, daemon=True).start()  # it may wait for its coordinator
            self.errors = copy.copy(self.errors)  # meanwhile the old one's callbacks go on
            self.errors.no_brokers = False
            self.consumer = self.new_consumer()
            self.consumer.subscribe([self.topic], on_assign=self.on_assign)

    def store_offsets(self, last: dict[int, Message]) -> None:
        """Mark the last message printed of each partition, which the next commit tells the broker."""
        for partition, message in last.items():
            self.positions[partition] = (message.offset() or 0) + 1
            try:
                self.consumer.store_offsets(message)
            except KafkaException as error:
                if error.args[0].code() != KafkaError._STATE:  # a rebalance took the partition: others print it again
                    raise

    def lag(self) -> int | str:
        """Return how many messages are still to be printed, by the watermarks of the latest fetches: no request."""
        lag, partitions = 0, self.consumer.assignment()
        for one in partitions:
            low, high = self.consumer.get_watermark_offsets(one, cached=True)
            if high < 0 or one.partition not in self.positions:
                return "unknown"
            lag += max(0, high - max(low, self.positions[one.partition]))
        return lag if partitions else "unknown"


# -- the loop


class Output:
    """Standard output, past Python's own buffer, in which something could be left to fail later."""

    def __init__(self) -> None:
        self.descriptor = sys.stdout.fileno()
        self.writing = False
        self.abandoned = False  # by the main thread, where a write stands still

    def prepare(self) -> None:
        """Make it block, and end the half line that a killed run may have left in a file. Raises OSError."""
        if hasattr(os, "set_blocking"):  # Windows: since Python 3.12
            os.set_blocking(self.descriptor, True)  # who started it may have set it otherwise
        status, end = os.fstat(self.descriptor), b"\n"
        if stat.S_ISREG(status.st_mode) and status.st_size > 0:
            end = b""  # where it may not be read; an empty line is no loss
            with contextlib.suppress(OSError), open(f"/dev/fd/{self.descriptor}", "rb") as file:
                file.seek(-1, os.SEEK_END)
                end = file.read(1)
        if end != b"\n":
            os.write(self.descriptor, b"\n")
        with contextlib.suppress(ImportError, AttributeError, OSError):  # it is no pipe; this is not Linux
            import fcntl

            fcntl.fcntl(self.descriptor, fcntl.F_SETPIPE_SZ, PIPE_BYTES)

    def write(self, lines: bytearray) -> int:
        """Write all of `lines`, empty it, and return how many bytes that were. Raises OSError, Stopped."""
        size = len(lines)
        self.writing = True
        while lines:
            del lines[: os.write(self.descriptor, lines)]
        self.writing = False
        if self.abandoned:
            raise Stopped
        return size


def print_messages(group: Group, output: Output, progress: Progress, limit: int) -> None:
    """Print `limit` messages, or until the group's `stop` is set. Raises Failure, KafkaException, Stopped, OSError."""
    output.prepare()
    while not group.stop.is_set() and progress.messages < limit:
        group.after_callbacks()
        first = group.consumer.poll(POLL_SECONDS)
        group.errors.raise_failure()
        # What has come by now: waiting until a batch is full would be latency.
        room = min(BATCH, limit - progress.messages)
        batch = [] if first is None else [first, *group.consumer.consume(room - 1, 0)]
        lines = bytearray()
        last: dict[int, Message] = {}
        printed = 0
        for message in batch:
            if (error := message.error()) is not None:
                group.errors.error_cb(error)
                continue
            partition: Any = message.partition()  # by the binding's types it could be None
            offset: Any = message.offset()
            lines += json_line(partition, offset, message.value())
            last[partition] = message
            printed += 1
            if len(lines) > WRITE_BYTES:
                progress.bytes += output.write(lines)
                if group.stop.is_set():
                    break
        progress.bytes += output.write(lines)
        progress.messages += printed
        group.store_offsets(last)
        if last:
            group.errors.refused_since = None
        progress.show(last)


# -- how it is doing


class Progress:
    """What was printed, and the lines that tell of it."""

    def __init__(self, group: Group, console: Console) -> None:
        self.group, self.console = group, console
        self.newest = 0  # when the newest message printed was produced, in milliseconds since 1970
        self.messages = self.bytes = 0
        terminal = sys.stderr.isatty()
        # A pipe's reader may write to this very terminal, too. Windows' console may show the escape sequence.
        self.in_place = terminal and os.name == "posix" and stat.S_ISREG(os.fstat(sys.stdout.fileno()).st_mode)
        self.interval = 1.0 if self.in_place else LOG_SECONDS
        if terminal and sys.stdout.isatty():
            self.interval = float("inf")
        self.started = self.shown_at = time.monotonic()
        self.before = (0, 0)  # messages and bytes, when it was shown last

    def show(self, last: dict[int, Message]) -> None:
        """Take account of the last message of each partition in a batch, and show it all where it is time to."""
        self.newest = max([self.newest, *(message.timestamp()[1] for message in last.values())])
        seconds = time.monotonic() - self.shown_at
        if seconds < self.interval:
            return
        messages, size = self.messages - self.before[0], self.bytes - self.before[1]
        speed = f"{messages / seconds:.0f}/s, {size / seconds / 1e6:.1f} MB/s"
        text = f"{self.messages} messages, {speed}, lag {self.group.lag()}"
        if self.newest > 0:
            text += f", newest {datetime.timedelta(seconds=max(0, int(time.time() - self.newest / 1000)))} old"
        if not self.in_place:
            text = f"{datetime.datetime.now().astimezone().isoformat(timespec='seconds')} {text}"
        self.console.note(text, self.in_place)
        self.shown_at, self.before = time.monotonic(), (self.messages, self.bytes)

    def summary(self) -> str:
        """Return the line for the end; to be called before the consumer is closed."""
        elapsed = datetime.timedelta(seconds=int(time.monotonic() - self.started))
        return f"stopped: {self.messages} messages in {elapsed}, lag {self.group.lag()}"


# -- main


def ends_within(thread: threading.Thread, seconds: float) -> bool:
    """Wait for a thread's end at most so long; return whether it has ended."""
    deadline = time.monotonic() + seconds
    while thread.is_alive() and time.monotonic() < deadline:
        thread.join(POLL_SECONDS / 2)  # in short steps: on Windows Ctrl-C does not interrupt a join
    return not thread.is_alive()


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Connect, print until the end or a signal, leave the group; return the exit status (see main)."""
    stop = threading.Event()
    try:
        config = read_config(arguments.config, console)
        errors = Errors(console, arguments.topic, config["group.id"])
        group = Group(arguments.config, config, errors, stop)
    except Failure as error:
        console.say(f"error: {error}")
        return 2
    if sys.stdout is None:
        console.say("error: standard output is closed")
        return 1
    progress = Progress(group, console)
    output = Output()
    outcome: Failure | None = Failure("this is a defect of consumer.py: please report it with the lines above")

    def read() -> None:
        nonlocal outcome
        try:
            group.start(arguments.start)
            try:
                print_messages(group, output, progress, arguments.max_messages)
            finally:
                if not output.abandoned:
                    console.note(progress.summary())
            outcome = None
        except Failure as error:
            outcome = error
        except KafkaException as error:
            outcome = Failure(f"Kafka failed: {plain(error.args[0])}: run it again; if it stays so, ask who runs Kafka")
        except (Stopped, BrokenPipeError):  # a signal; the reader has what it wanted
            outcome = None
        except OSError as error:
            outcome = Failure(f"standard output: {error.strerror}")

    def on_signal(number: int, _: object) -> None:
        if stop.is_set():  # the second one ends the process at once, wherever the other threads hang
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        stop.set()

    # A handler runs only between two steps of the main thread, so that must never be within the client library.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    reading = threading.Thread(target=read, daemon=True)
    reading.start()
    while not stop.is_set() and not ends_within(reading, POLL_SECONDS):
        pass
    failure = ""
    if not ends_within(reading, FINISH_SECONDS) and output.writing:
        output.abandoned = True
        failure = "standard output is blocked: what it did not take will be printed by the next run"
    elif ends_within(reading, ANSWER_SECONDS):  # it may wait for a last answer
        failure = str(outcome or "")
    if failure:  # by a thread, for a reader of both outputs may stand still
        saying = threading.Thread(target=console.say, args=(f"error: {failure}",), daemon=True)
        saying.start()
        ends_within(saying, ANSWER_SECONDS)
    stop.set()  # from now on a first signal is enough
    leaving = threading.Thread(target=group.consumer.close, daemon=True)  # commits what is stored
    leaving.start()
    if not ends_within(leaving, FAILED_CLOSE_SECONDS if failure else CLOSE_SECONDS):
        console.say("warning: the broker did not confirm the last commit: what was printed last may be printed again")
    if reading.is_alive() or leaving.is_alive():
        os._exit(1 if failure else 0)  # past the interpreter's clean-up, which they would meet
    return 1 if failure else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script with the arguments `argv` (the command line's by default); return its exit status.

    0: stopped by Ctrl-C, SIGTERM, --max-messages or the end of its reader. 1: Kafka or standard output failed.
    2: usage or configuration.
    """
    if sys.stderr is None:  # closed: librdkafka would print to what takes its descriptor next
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    library = f"confluent-kafka {confluent_kafka.__version__}, librdkafka {confluent_kafka.libversion()[0]}"
    parser = argparse.ArgumentParser(
        description="Print the messages of a Kafka topic as JSON Lines.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    option = parser.add_argument
    option("--topic", required=True, help="the topic to read")
    option("--config", default="config.ini", metavar="FILE", help="connection settings [config.ini]")
    option("--max-messages", type=int, default=sys.maxsize, metavar="N", help="stop after N messages")
    option("--from", dest="start", type=start_time, metavar="WHEN", help=f"first reset the group to {START_FORMS}")
    option("--quiet", action="store_true", help="say nothing but warnings and errors")
    option("--version", action="version", version=f"%(prog)s {__version__}, {library}", help="what a bug report needs")
    arguments = parser.parse_args(argv)
    if not re.fullmatch(r"(?!\.{1,2}\Z)[a-zA-Z0-9._-]{1,249}", arguments.topic):  # to librdkafka ^... is a pattern
        parser.error("argument --topic: a topic name has 1 to 249 characters out of a-z A-Z 0-9 . _ -")
    if arguments.max_messages < 1:
        parser.error("argument --max-messages: must be at least 1")
    return run(arguments, Console(arguments.quiet))


if __name__ == "__main__":
    sys.exit(main())
