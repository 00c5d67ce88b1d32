#!/usr/bin/env python3
"""Print the messages of a Kafka topic as JSON Lines on standard output.

    $ python consumer.py --topic tron.broadcasted.transactions --max-messages 1
    tron.broadcasted.transactions: 3 partitions, group tron_user-group-1: waits for new messages
    {"partition": 0, "offset": 41, "value": "{\\"Chain\\":{\\"ChainId\\":\\"6d61696e6e6574\\"},…"}
    stopped: 1 messages in 0:00:01

A message counts as read only when its line has been written. So whatever kills the script, the next run of the
same group prints what is missing: every message at least once. A worker thread does all that touches Kafka and
standard output; the main thread waits for it and for signals, and ends the process if the worker hangs.
"""

import argparse
import base64
import configparser
import contextlib
import datetime
import errno
import faulthandler
import json
import os
import re
import select
import signal
import stat
import sys
import threading
import time
from collections.abc import Callable, Sequence
from json.encoder import encode_basestring
from typing import Any

try:
    import confluent_kafka.admin  # the client would import it later, when no file can be opened any more
    from confluent_kafka import OFFSET_END, Consumer, KafkaError, KafkaException, Message, TopicPartition
    from lz4.frame import create_decompression_context, decompress_chunk, reset_decompression_context
except ImportError as missing:
    found = getattr(sys.modules.get(str(missing.name).partition(".")[0]), "__file__", None) or "site-packages"
    remedy = "activate the virtual environment, or make one: pip install -r requirements.txt"
    sys.exit(f"error: {missing}: {remedy if '-packages' in found else f'{found} hides the package: rename it'}")

__version__ = "2.0.0"

DEFAULTS = {  # the INI overrides these; [librdkafka's own default]
    "auto.offset.reset": "latest",  # [largest, the same]
    "enable.auto.commit": "true",
    "sasl.mechanisms": "SCRAM-SHA-512",  # [GSSAPI, which the package from pip cannot do]
    "fetch.queue.backoff.ms": "10",  # [1000] pauses fetching for a second whenever the queue is full
    "queued.max.messages.kbytes": "8192",  # [65536] just as fast with half of the memory
    "check.crcs": "true",  # [false] prints messages that were damaged on the broker's disk
    "auto.commit.interval.ms": "1000",  # [5000] bounds what is printed again after a kill
    "socket.timeout.ms": "30000",  # [60000] until a connection that has died silently is noticed
}

POLL_SECONDS = 0.2  # how late a signal is noticed when no message comes
ANSWER_SECONDS = 2  # for the answer to one request
START_SECONDS = 10  # in which a broker has to answer; a slow link with TLS and SCRAM needs two or three
DOWN_SECONDS = 3  # the same once every address has failed; a host may have two
LEADER_SECONDS = 20  # for a request once one has answered; Kafka takes nine to replace a dead leader or coordinator
REFUSED_SECONDS = 30  # a login or TLS refused for so long is refused for good
STOP_SECONDS = 5  # without progress while stopping; `docker stop` gives ten
QUIET_SECONDS = 60  # between two warnings of a kind; librdkafka repeats an error every 30 s
LOG_SECONDS = 60.0  # between two progress lines in a log

BATCH = 100  # messages at the most between two looks at the signal and the clock
WRITE_BYTES = 1 << 16  # of lines at most before a write; a megabyte exceeds the CPU's cache and is a tenth slower
PIPE_BYTES = 1 << 18  # [64 KB] keeps the reader busy while the next lines are made: a quarter faster
ESCAPES = os.environ.get("TERM", "dumb") != "dumb"  # Windows' console has no TERM, and may show them as text
TERMINAL_CONTROLS = re.compile(rb"\x7f|\xc2[\x80-\x9f]")  # DEL and U+0080 to U+009F; JSON escapes the others
MAX_INFLATED = 16 << 20  # bytes; the vendor's messages are at most 1 MB before decompression
START_FORMS = "beginning, end, 30m, 2h, 1d or 2026-11-23T10:00[:00][Z|+02:00] (local time without a zone)"


class Failure(Exception):
    """Ends the run; its text is the line for the user."""


def say(text: str, end: str = "\n") -> None:
    """Write a line to standard error; with "\\r" as its end, the next one is written over it."""
    clear = "\x1b[K" if ESCAPES and sys.stderr.isatty() else ""  # to the end of the line
    # Unbuffered: Python would write its buffer again at exit. An error is ignored: the messages matter more.
    with contextlib.suppress(OSError), open(sys.stderr.fileno(), "wb", buffering=0, closefd=False) as stream:
        stream.write(f"{clear}{text}{end}".encode(errors="backslashreplace"))


# -- settings
def read_config(path: str) -> dict[str, str]:
    """Return DEFAULTS and an INI's properties; paths are relative to the INI. Raises Failure, which quotes no value."""
    parser = configparser.ConfigParser(interpolation=None, delimiters=("=",), default_section="")
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # keys as written
    try:
        with open(path, encoding="utf-8-sig") as file:
            mode = os.fstat(file.fileno()).st_mode
            parser.read_file(line.strip() for line in file)  # an indented line would continue a value
    except FileNotFoundError:
        command = "copy" if os.name == "nt" else "install -m 600"
        raise Failure(f"{path} not found: copy the example ({command} config.example.ini {path}) and edit it") from None
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(f"{path} cannot be read: {getattr(error, 'strerror', 'it is not UTF-8')}") from None
    except configparser.Error as error:  # its own text may quote a password
        number = error.errors[0][0] if hasattr(error, "errors") else getattr(error, "lineno", 0)
        raise Failure(f'{path}, line {number}: after [kafka], each line is "key = value", each key once') from None
    if parser.sections() != ["kafka"] or not all(re.fullmatch(r"[\w.-]+", key) for key in parser["kafka"]):
        raise Failure(f'{path}: after the one line [kafka], each line is "key = value": see config.example.ini')
    settings = {key: value for key, value in parser["kafka"].items() if value}
    if unedited := [key for key, value in settings.items() if value.startswith(("YOUR_USERNAME", "YOUR_PASSWORD"))]:
        raise Failure(f"{path} is still the example: put in your own {' and '.join(unedited)}")
    if "bootstrap.servers" not in settings or not settings.keys() & {"sasl.username", "group.id"}:
        raise Failure(f"{path}: bootstrap.servers and sasl.username are required (without a login: group.id)")
    settings.setdefault("group.id", f"{settings.get('sasl.username')}-group-1")
    base = os.path.dirname(os.path.realpath(path)) if stat.S_ISREG(mode) else ""  # a pipe is in no directory
    for key, value in settings.items():
        if key.endswith(".location") and value != "probe":  # ssl.ca.location = probe: the system's own
            settings[key] = os.path.join(base, os.path.expanduser(value))
            if not os.access(settings[key], os.R_OK):
                raise Failure(f"{path}: {key}: there is no readable file {os.path.abspath(settings[key])}")
    if os.name == "posix" and mode & 0o044:
        say(f"warning: others may read the password in {path}: chmod 600 {path}")
    return {**DEFAULTS, **settings}


def start_time(text: str) -> int:
    """Return what --from means: OFFSET_BEGINNING, OFFSET_END, or milliseconds since 1970."""
    if text in ("beginning", "end"):
        return confluent_kafka.OFFSET_BEGINNING if text == "beginning" else OFFSET_END
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
    return max(0, int(moment * 1000))  # Kafka reads negative ones as beginning and end


# -- a message and its line
LZ4_MAGIC = b"\x04\x22\x4d\x18"  # 0x184D2204 in little endian: LZ4 Frame Format Description, "General Structure"
NO_CONTROLS = bytes.maketrans(bytes(range(32)), b" " * 32)  # JSON forbids them in a string: RFC 8259, section 7
lz4_context = create_decompression_context()  # one for all: a new one for each message takes twice the time


def decompress(value: bytes) -> bytes:
    """Return what the LZ4 frames in `value` hold, one after the other.

    Return `value` itself unless it is whole frames and nothing else, which inflate to MAX_INFLATED bytes at most.
    """
    parts, room, end = [], MAX_INFLATED, 0
    part: bytes
    while value.startswith(LZ4_MAGIC, end):  # each one: liblz4 would drop skippable frames, and their bytes
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


def json_line(partition: int, offset: int, value: bytes | None) -> bytes:
    """Return the line of a message: UTF-8 JSON with a newline, from which the value's every byte can be got back."""
    string = b"null"
    if value is not None:
        content = decompress(value)
        try:
            text = content.decode()  # also where only its success counts
            if bytearray(content).translate(NO_CONTROLS) != content:  # twice as fast as bytes.translate
                string = encode_basestring(text).encode()
            else:  # JSON in JSON has a quote in every twelve bytes: encode_basestring takes up to twice as long
                string = b'"%b"' % content.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
        except UnicodeDecodeError:
            string = b'"%b", "encoding": "base64"' % base64.b64encode(content)
    return b'{"partition": %d, "offset": %d, "value": %b}\n' % (partition, offset, string)


# -- what goes wrong
HINTS = {  # the name of an error's code -> what to check, with every setting that may be wrong
    "CONNECTION": "no connection to {servers}: check bootstrap.servers, the network, security.protocol, "
    "ssl.certificate.location and ssl.key.location",
    "_AUTHENTICATION": "login failed: check sasl.username, sasl.password (no quotes), other sasl.*, security.protocol",
    "_SSL": "TLS failed: check ssl.ca.location, ssl.endpoint.identification.algorithm (none where the certificate "
    "names no host), ssl.certificate.location, ssl.key.location, the dates in the certificates, and security.protocol",
    "_MAX_POLL_EXCEEDED": "output blocked, or machine asleep, for max.poll.interval.ms: joining the group again",
    "_BAD_MSG": "a damaged message (--from passes over it), an answer over receive.message.max.bytes or not Kafka's",
    "_BAD_COMPRESSION": "a damaged message (--from passes over it)",
    "_INVALID_ARG": "{config}: check what is named here; is ssl.key.location the key of ssl.certificate.location, are "
    "both PEM and long enough, does ssl.key.password or ssl.keystore.password fit, is sasl.mechanisms known?",
    "_AUTO_OFFSET_RESET": "auto.offset.reset = error, and there is no offset to begin at",
    "_FATAL": "refused by the group: check group.id, group.protocol, group.instance.id (each copy needs its own)",
    "UNKNOWN_TOPIC_OR_PART": "there is no topic {topic}: check --topic",
    "TOPIC_AUTHORIZATION_FAILED": "this user may not read topic {topic}: check --topic and sasl.username",
    "GROUP_AUTHORIZATION_FAILED": "this user may not use group {group}: group.id must begin with the username",
    "INVALID_SESSION_TIMEOUT": "the broker does not allow this session.timeout.ms",
}
LOST = "lost connection, or an address that the broker advertises cannot be reached"  # the same once one has answered
CONNECTION = ("_TRANSPORT", "_RESOLVE", "_TIMED_OUT", "_TIMED_OUT_QUEUE", "_ALL_BROKERS_DOWN")  # passes by itself
REFUSED = ("_AUTHENTICATION", "_SSL")  # ends the run at its start, or after REFUSED_SECONDS
FINAL = HINTS.keys() - {"CONNECTION", *REFUSED, "_MAX_POLL_EXCEEDED"}  # ends the run
NOT_REFUSED = (0.0, float("-inf"))
NOISE = re.compile(r"\w+://|/(bootstrap|\d+)(?=: )| \(after \d+ms.*|: (broker cert|connecting to a P|recompile).*|\s+$")


class Errors:
    """Turns librdkafka's errors, statistics, log and the outcome of commits into warnings or a Failure."""

    def __init__(self, config: dict[str, str], arguments: argparse.Namespace) -> None:
        self.topic, self.group = arguments.topic, config["group.id"]
        self.names = {**vars(arguments), "group": self.group, "servers": config["bootstrap.servers"]}  # for HINTS
        self.note: Callable[..., None] = (lambda *_: None) if arguments.quiet else say  # what --quiet leaves out
        self.told: dict[str, float] = {}  # kind of trouble -> when it was told
        self.answered = False  # by a broker: from then on a trouble may pass
        self.limit = START_SECONDS  # for a request; shorter once all are down, longer once one has answered
        self.trouble = ""  # why there is no answer: a refusal, or what tells most
        self.refused = NOT_REFUSED  # when a login or TLS was refused first and last, with no message between
        self.failure: Failure | None = None  # raised in a callback, it could come out of close()
        self.assigned: int | None = None  # how many partitions this copy has; None while the group divides them
        self.lag: int | str = "unknown"  # how many messages are still to be printed
        self.forgotten = False  # librdkafka knows no broker any more
        self.uncommitted = ""  # why the last commit failed; the next one, or a rebalance, settles that

    def warn(self, kind: str, text: str) -> None:
        """Warn of a trouble, at most once a minute."""
        if time.monotonic() - self.told.get(kind, -QUIET_SECONDS) >= QUIET_SECONDS:
            self.told[kind] = time.monotonic()
            say(f"warning: {text}")

    def sentence(self, error: KafkaError) -> str:
        """Return what to check, by an error's code, and librdkafka's words, less NOISE and guesses."""
        words, code = NOISE.sub("", error.str()), "CONNECTION" if error.name() in CONNECTION else error.name()
        hint = LOST if self.answered and code == "CONNECTION" else HINTS.get(code, "")
        if re.search("onfiguration property|Expected bool", words):
            hint = "{config}: a wrong name or value"
        return f"{hint.format(**self.names)} ({words})" if hint else words

    def error_cb(self, error: KafkaError) -> None:
        """Take an error: it ends the run, tells why no broker has answered yet, or is warned of."""
        if error.name() == "_AUTHENTICATION" and "failed: Local: " in error.str():  # cut, not refused
            error = KafkaError(KafkaError._TRANSPORT, error.str())
        code, sentence, now = error.name(), self.sentence(error), time.monotonic()
        tells_more = code in REFUSED or (code != "_ALL_BROKERS_DOWN" and self.refused == NOT_REFUSED)
        self.trouble = sentence if tells_more else self.trouble or sentence
        if code in REFUSED:
            first, last = self.refused
            self.refused = (first if now - last < QUIET_SECONDS else now, now)
        if code in FINAL or (code in REFUSED and self.refused[1] - self.refused[0] >= REFUSED_SECONDS):
            self.failure = Failure(sentence)
        elif self.answered:
            self.warn(code, sentence + ("; trying again until it works" if code in CONNECTION else ""))
        elif code == "_ALL_BROKERS_DOWN":  # one sick broker of three does not decide
            self.limit = DOWN_SECONDS if self.refused == NOT_REFUSED else 0

    def on_commit(self, error: KafkaError | None, _: list[TopicPartition]) -> None:
        """Take the outcome of a commit."""
        if error is None:
            self.uncommitted = ""
        elif error.code() != KafkaError._NO_OFFSET:
            self.uncommitted = f"what was printed may be printed again: offsets were not committed ({error.str()})"
            self.warn("commit", self.uncommitted)

    def stats_cb(self, text: str) -> None:
        """Take librdkafka's statistics: https://github.com/confluentinc/librdkafka/blob/master/STATISTICS.md."""
        statistics = json.loads(text)
        partitions = statistics["topics"].get(self.topic, {}).get("partitions", {}).values()
        active = [one for one in partitions if one["fetch_state"] == "active"]
        done = ("stored_offset", "committed_offset", "lo_offset")
        lags = [max(0, one["hi_offset"] - max(one[key] for key in done)) for one in active if one["hi_offset"] >= 0]
        self.lag = sum(lags) if active and len(lags) == len(active) else "unknown"
        # It would never connect again: https://github.com/confluentinc/librdkafka/issues/5301
        self.forgotten = all(broker["source"] == "logical" for broker in statistics["brokers"].values())
        group, before = statistics.get("cgrp", {}), self.assigned
        self.assigned = group["assignment_size"] if group.get("join_state") == "steady" else None
        if self.assigned not in (None, before):
            self.note(f"{self.topic}: this copy has {self.assigned} partitions")
            self.refused, self.uncommitted = NOT_REFUSED, ""

    def log(self, level: int, form: str, *arguments: str) -> None:
        """Take librdkafka's log, as logging.Logger does. Only this of it has no callback, and matters."""
        if "offset reset" in (text := re.sub(r"^.*\[thrd:.*?\]: ", "", form % arguments)):
            say(f"warning: messages were deleted before they could be read: {text}")


# -- the consumer of the topic
class Member:
    """This copy in the group. librdkafka commits what is stored: at intervals, in a rebalance, and in close()."""

    def __init__(self, config: dict[str, str], errors: Errors, output: "Output", exit_at_end: bool) -> None:
        """Make a client that has yet to connect. Raises Failure where a property is unknown or its value bad."""
        self.config, self.errors, self.output, self.exit_at_end = config, errors, output, exit_at_end
        self.commits = config["enable.auto.commit"].lower() in ("true", "t", "1")
        self.latest = config["auto.offset.reset"].lower() in ("latest", "largest", "end")
        self.unfinished: dict[int, int] = {}  # partition -> its end at the start; at that end it is taken out
        self.subscription: dict[str, Any] = {}  # empty until `start` is over: before that, what comes would be lost
        self.client = self.new_client()  # replaced where it has forgotten all brokers

    def new_client(self) -> Consumer:
        """Return a client that has yet to connect. Raises Failure."""
        errors = self.errors
        own: dict[str, Any] = {"error_cb": errors.error_cb, "on_commit": errors.on_commit, "stats_cb": errors.stats_cb}
        own |= {"statistics.interval.ms": 1000, "enable.partition.eof": self.exit_at_end}  # stats_cb each second
        own["enable.auto.offset.store"] = False  # print_messages does it, when the line has been written
        if "debug" not in self.config:  # with a logger the lines of `debug` would wait in a queue for poll()
            own |= {"logger": errors, "log_level": 6}
        if self.latest and self.commits:
            own["auto.offset.reset"] = "earliest"  # `start` sees to new groups; an added partition is read as a whole
        try:
            return Consumer({**self.config, **own})
        except KafkaException as error:
            raise Failure(errors.sentence(error.args[0])) from None

    def start(self, begin: int | None) -> None:
        """Move the group to `begin` (see start_time), or a new one to where auto.offset.reset says, and subscribe."""
        topic, group = self.errors.topic, self.errors.group
        (found,) = self.ask(lambda seconds: [self.client.list_topics(topic, timeout=seconds).topics[topic]])
        partitions = [TopicPartition(topic, partition) for partition in found.partitions]
        committed = self.ask(lambda seconds: self.client.committed(partitions, timeout=seconds))
        resumes = any(one.offset >= 0 for one in committed)

        def offsets_at(timestamp: int) -> list[TopicPartition]:  # negative where no message is as new as that
            asked = [TopicPartition(topic, partition, timestamp) for partition in found.partitions]
            return self.ask(lambda seconds: self.client.offsets_for_times(asked, timeout=seconds))

        plan, begins = "resumes after the last one printed" if resumes else "starts at the beginning", []
        if self.exit_at_end:
            self.unfinished = {one.partition: one.offset for one in offsets_at(OFFSET_END)}
        if begin is not None:
            plan, ends = "starts where --from says", offsets_at(OFFSET_END)  # or what comes between would be skipped
            begins = [end if one.offset < 0 else one for one, end in zip(offsets_at(begin), ends)]
        elif self.latest and not resumes:
            plan = "waits for new messages"
            begins = offsets_at(OFFSET_END) if self.commits else []  # or a restart would begin at the end again
        # Kafka refuses it where the group has members: another copy was faster, or reads another topic.
        refused = begins and not self.ask(lambda _: self.client.commit(offsets=begins, asynchronous=False))
        if refused and begin is not None:
            wait = "stop all that reads with it (what was killed leaves after session.timeout.ms)"
            raise Failure(f"--from moved nothing, because group {group} is in use: {wait}, or set another group.id")
        self.errors.note(f"{topic}: {len(partitions)} partitions, group {group}: {plan}")
        on_assign = {"on_assign": lambda client, assigned: self.begin_at(begins, client, assigned)} if refused else {}
        self.subscription = {"topics": [topic], **on_assign}
        self.client.subscribe(**self.subscription)

    def ask(self, request: Callable[[float], list[Any]]) -> list[Any]:
        """Return what request(seconds) returns, in the end; nothing where a commit is refused. Raises Failure."""
        began = time.monotonic()
        while not self.output.stop:
            try:
                # An answer that comes too late is lost, so on a slow link it is waited for longer each time.
                found = request(min(ANSWER_SECONDS, POLL_SECONDS + (time.monotonic() - began) / 3))
                self.errors.answered, self.errors.limit, self.errors.trouble = True, LEADER_SECONDS, ""
                error = next((one.error for one in found if one.error is not None), None)
            except KafkaException as failed:
                error = failed.args[0]
            if error is None:
                return found
            if error.name() in ("UNKNOWN_MEMBER_ID", "FENCED_INSTANCE_ID"):
                return []
            if error.name() in FINAL:
                raise Failure(self.errors.sentence(error))
            self.poll(1)  # calls error_cb
            if time.monotonic() - began > self.errors.limit:
                raise Failure(self.errors.trouble or self.errors.sentence(error))
        raise InterruptedError

    def begin_at(self, offsets: list[TopicPartition], client: Consumer, assigned: list[TopicPartition]) -> None:
        """Commit where assigned partitions without a committed offset begin: librdkafka asks for it after that."""
        with contextlib.suppress(KafkaException):  # then from the oldest message: more than wanted, nothing is lost
            committed = client.committed(assigned, timeout=ANSWER_SECONDS)
            new = [one.partition for one in committed if one.offset < 0 and one.error is None]
            if begins := [one for one in offsets if one.partition in new]:
                client.commit(offsets=begins, asynchronous=True)

    def poll(self, count: int) -> list[Message]:
        """Return up to `count` messages: what comes within POLL_SECONDS, and is there by then. Raises Failure."""
        if self.errors.forgotten:  # what has yet to be committed is printed again
            self.errors.warn("forgotten", "lost connection: no broker is left; trying again until it works")
            self.errors.forgotten = False
            self.client = self.new_client()  # the old one goes with its last reference, and does not leave the group
            if self.subscription:
                self.client.subscribe(**self.subscription)
        first = self.client.poll(POLL_SECONDS)
        if self.errors.failure is not None:
            raise self.errors.failure
        # What has come by now: waiting until a batch is full would be latency.
        batch = [] if first is None else [first, *self.client.consume(count - 1, 0)]
        for message, error in [(each, error) for each in batch if (error := each.error()) is not None]:
            batch.remove(message)
            if error.name() == "_PARTITION_EOF":
                self.unfinished.pop(message.partition() or 0, None)
            else:
                self.errors.error_cb(error)
        return batch

    def at_end(self) -> bool:
        """Tell whether all that its partitions held at the start has been printed, if that is to end the run."""
        # In a rebalance it has none for a moment, so the statistics, up to a second old, must agree.
        if not self.exit_at_end or self.errors.assigned != len(assigned := self.client.assignment()):
            return False
        return all(self.unfinished.get(p.partition, p.offset) <= p.offset for p in self.client.position(assigned))


# -- the loop
class Output:
    """Standard output, and what the two threads know of each other."""

    def __init__(self) -> None:
        self.descriptor, self.terminal = sys.stdout.fileno(), sys.stdout.isatty()
        self.writer = open(self.descriptor, "wb", buffering=0, closefd=False)  # what a buffer holds could fail later
        on_screen, mode = sys.stderr.isatty(), os.fstat(self.descriptor).st_mode
        self.hangup = select.poll() if hasattr(select, "poll") and stat.S_ISFIFO(mode) else None  # Windows has none
        if self.hangup is not None:
            self.hangup.register(self.descriptor, 0)  # tells that the reader has gone
        # None among the messages; rewritten only where nothing else, such as a pipe's reader, writes to the terminal.
        self.in_place = on_screen and stat.S_ISREG(mode) and ESCAPES
        self.progress_seconds = float("inf") if on_screen and self.terminal else 1.0 if self.in_place else LOG_SECONDS
        self.stop = False  # a signal came, or the worker has come to its end
        self.pending = 0  # bytes of the write in hand that have yet to be taken

    def prepare(self) -> None:
        """End the half line that a killed run may have left in a file, and enlarge a pipe. Raises OSError."""
        status = os.fstat(self.descriptor)
        if stat.S_ISREG(status.st_mode) and status.st_size > 0:
            end = b""  # where it may not be read: an empty line is no loss
            with contextlib.suppress(OSError), open(f"/dev/fd/{self.descriptor}", "rb") as file:
                file.seek(-1, os.SEEK_END)
                end = file.read(1)
            self.write(b"" if end == b"\n" else b"\n")
        with contextlib.suppress(ImportError, AttributeError, OSError):  # it is no pipe; this is not Linux
            import fcntl

            fcntl.fcntl(self.descriptor, fcntl.F_SETPIPE_SZ, PIPE_BYTES)

    def write(self, lines: bytes | bytearray) -> int:
        """Write all of `lines`, and return how many bytes that were. Raises OSError."""
        if self.terminal:
            lines = TERMINAL_CONTROLS.sub(lambda found: b"\\u%04x" % ord(found[0].decode()), lines)
        rest = memoryview(lines)
        while rest:
            self.pending = len(rest)
            written = self.writer.write(rest[: 2 * WRITE_BYTES])
            if written is None:  # a program that shares it has made it non-blocking
                os.set_blocking(self.descriptor, True)
            rest = rest[written or 0 :]
        self.pending = 0
        return len(lines)


def print_messages(member: Member, output: Output, limit: int) -> None:
    """Print `limit` messages, or until the run is to stop. Raises Failure, KafkaException, OSError."""
    output.prepare()
    made = printed = size = newest = 0
    began, *_ = shown = (time.monotonic(), 0, 0)
    try:
        while not output.stop and printed < limit and not member.at_end():
            batch = member.poll(min(BATCH, limit - printed))
            lines = bytearray()
            last: dict[int, Message] = {}
            for message in batch:
                partition, offset = message.partition() or 0, message.offset() or 0  # None by the binding's types only
                lines += json_line(partition, offset, message.value())
                last[partition] = message
                made += 1
                if len(lines) > WRITE_BYTES:
                    size += output.write(lines)
                    lines = bytearray()
                    if output.stop:
                        break
            size += output.write(lines)
            printed = made
            for message in last.values():  # the offsets are stored here, and nowhere else
                newest = max(newest, message.timestamp()[1])
                member.errors.refused = NOT_REFUSED
                with contextlib.suppress(KafkaException):  # a rebalance took the partition: others print it again
                    member.client.store_offsets(message)
            if not last and output.hangup is not None and output.hangup.poll(0):
                break
            now = (time.monotonic(), printed, size)
            if now[0] - shown[0] >= output.progress_seconds:
                show_progress(output, member.errors, shown, now, newest)
                shown = now
    finally:
        elapsed = datetime.timedelta(seconds=int(time.monotonic() - began))
        member.errors.note(f"stopped: {printed} messages in {elapsed}")


# -- how it is doing
def show_progress(output: Output, errors: Errors, before: Sequence[float], now: Sequence[float], newest: int) -> None:
    """Say what has been printed between two times, each with messages and bytes by then; `newest` is a timestamp."""
    seconds, printed = now[0] - before[0], now[1]
    speed = f"{(printed - before[1]) / seconds:.0f}/s, {(now[2] - before[2]) / seconds / 1e6:.1f} MB/s"
    age = f", newest {datetime.timedelta(seconds=max(0, int(time.time() - newest / 1000)))} old" if newest > 0 else ""
    text = f"{printed} messages, {speed}, lag {errors.lag}{age}"
    if output.in_place:
        with contextlib.suppress(OSError):  # the terminal has been closed
            errors.note(text[: (os.get_terminal_size(sys.stderr.fileno()).columns or 80) - 1], "\r")
    else:
        errors.note(f"{datetime.datetime.now().astimezone().isoformat(timespec='seconds')} {text}")


# -- main
def work(member: Member, output: Output, arguments: argparse.Namespace) -> int:
    """Do all that touches Kafka and standard output, the goodbye included; return the exit status."""
    failure = ""
    try:
        member.start(arguments.start)
        print_messages(member, output, arguments.max_messages)
    except (Failure, KafkaException) as error:
        failure = str(error) if isinstance(error, Failure) else member.errors.sentence(error.args[0])
    except OSError as error:  # a signal; or standard output, which fails, or whose reader has gone (EINVAL on Windows)
        well = isinstance(error, (InterruptedError, ConnectionError)) or (os.name, error.errno) == ("nt", errno.EINVAL)
        failure = "" if well else f"standard output: {error.strerror}"
    finally:
        output.stop, output.pending = True, 0  # from now on the main thread counts
        if failure:
            say(f"error: {failure}")
        member.client.close()  # commits what is stored, and leaves the group
        if not failure and (failure := member.errors.uncommitted):
            say(f"error: {failure}")
    return 1 if failure else 0


def run(arguments: argparse.Namespace) -> int:
    """Start the worker, and wait for its end or a signal, then for STOP_SECONDS; return the exit status (see main)."""
    if sys.stdout is None:
        say("error: standard output is closed")
        return 1
    try:
        config = read_config(arguments.config)
        output = Output()
        member = Member(config, Errors(config, arguments), output, arguments.exit_at_end)
    except Failure as error:
        say(f"error: {error}")
        return 2

    def on_signal(number: int, _: object) -> None:
        received.append(number)
        output.stop = True

    received: list[int] = []
    signals = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # ignored: nohup
        signals.append(signal.SIGHUP)
    for number in signals:
        signal.signal(number, on_signal)
    statuses: list[int] = []
    worker = threading.Thread(target=lambda: statuses.append(work(member, output, arguments)), daemon=True)
    worker.start()
    pending, moved = 0, time.monotonic()
    while worker.is_alive():
        worker.join(POLL_SECONDS)  # in short steps: on Windows Ctrl-C does not interrupt a join
        for number in signals if received else ():  # a second one ends the process at once, wherever it hangs
            signal.signal(number, signal.SIG_DFL)
        if not output.stop or output.pending != pending:  # a slow reader is not one that stands still
            pending, moved = output.pending, time.monotonic()
        elif time.monotonic() - moved > STOP_SECONDS:
            # It ends the process even if standard error is blocked.
            faulthandler.dump_traceback_later(1, exit=True, file=os.open(os.devnull, os.O_WRONLY))
            blocked = "standard output is blocked: what it did not take will be printed by the next run"
            silent = "the broker does not answer: what was printed last may be printed again"
            say(f"error: {blocked if pending else silent}")
            os._exit(1)
    return statuses[0] if statuses else 1  # none: a defect, with its traceback


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script with the arguments `argv` (the command line's by default); return its exit status.

    0: a signal, --max-messages, --exit-at-end, its reader has gone. 1: Kafka or standard output fails. 2: usage, INI.
    """
    if sys.stderr is None:  # closed: librdkafka would print to what takes its descriptor next
        sys.stderr = open(os.devnull, "w")
    library = f"confluent-kafka {confluent_kafka.__version__}, librdkafka {confluent_kafka.libversion()[0]}"
    parser = argparse.ArgumentParser(description="Print a Kafka topic as JSON Lines: see README.md", allow_abbrev=False)
    option = parser.add_argument
    option("--topic", required=True, help="the topic to read")
    option("--config", default="config.ini", metavar="FILE", help="connection settings [config.ini]")
    option("--max-messages", type=int, default=sys.maxsize, metavar="N", help="stop after N messages")
    option("--from", dest="start", type=start_time, metavar="WHEN", help=f"first reset the group to {START_FORMS}")
    option("--exit-at-end", action="store_true", help="stop when all that the topic holds now has been printed")
    option("--quiet", action="store_true", help="say nothing but warnings and errors")
    option("--version", action="version", version=f"%(prog)s {__version__}, {library}", help="what a bug report needs")
    arguments = parser.parse_args(argv)
    if not re.fullmatch(r"(?!\.{1,2}\Z)[a-zA-Z0-9._-]{1,249}", arguments.topic):  # to librdkafka ^... is a pattern
        parser.error("argument --topic: one name, of 1 to 249 characters out of a-z A-Z 0-9 . _ -")
    if arguments.max_messages < 1:
        parser.error("argument --max-messages: must be at least 1")
    arguments.config = os.path.abspath(os.path.expanduser(arguments.config))
    return run(arguments)


if __name__ == "__main__":
    sys.exit(main())
