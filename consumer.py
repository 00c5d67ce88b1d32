#!/usr/bin/env python3
"""Print the messages of a Kafka topic as JSON Lines on standard output.

    $ python consumer.py --topic tron.broadcasted.transactions --max-messages 2
    tron.broadcasted.transactions: 3 of 3 partitions, group tron_user-group-1: waits for new messages
    {"partition": 0, "offset": 41, "value": "{\\"Chain\\":{\\"ChainId\\":\\"6d61696e6e6574\\"},…"}
    {"partition": 2, "offset": 17, "value": "{\\"Chain\\":{\\"ChainId\\":\\"6d61696e6e6574\\"},…"}
    stopped: 2 messages in 0:00:01, offsets 17 to 41 in 2 partitions, lag 0

    $ python consumer.py --topic tron.broadcasted.transactions
    error: the login was refused: check sasl.username and sasl.password (rpk0.bitquery.io:9093: …)

A message counts as read only when its line has been written. So whatever kills the script, the next run of the
same group prints what is missing: every message at least once.
"""

from __future__ import annotations

import argparse
import base64
import configparser
import contextlib
import datetime
import fcntl
import json
import os
import re
import select
import signal
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from types import FrameType
from typing import Any

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a Ctrl-C during the imports is no traceback

try:
    import confluent_kafka
    from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
    from lz4.frame import create_decompression_context, decompress_chunk
except ImportError as missing:
    sys.exit(f"error: {missing}: activate the virtual environment, or make one: pip install -r requirements.txt")

__version__ = "1.0.0"

DEFAULTS = {  # the INI overrides them; [librdkafka's own]
    "fetch.queue.backoff.ms": "10",  # [1000] or fetching rests for a second each time the queue is full
    "queued.max.messages.kbytes": "8192",  # [65536] as fast, in half of the memory
    "auto.commit.interval.ms": "1000",  # [5000] bounds what is repeated after a kill
    "topic.metadata.propagation.max.ms": "5000",  # [30000] how long a deleted topic goes unnoticed
    "log_level": "4",  # [6] warnings, for Log.log, which shows one kind of them
}
FORCED = {"enable.auto.offset.store": "false"}  # print_messages stores an offset once its line is written
PLACEHOLDERS = ("YOUR_USERNAME", "YOUR_PASSWORD")  # of config.example.ini

POLL_SECONDS = 0.2  # how late a Ctrl-C is noticed when no message comes
FINISH_SECONDS = 1.5  # for the batch in hand after a signal, in which a reader that stands still takes nothing
GOODBYE_SECONDS = 10  # for all of the end after a signal, also where a broker has gone
BATCH = 500  # messages at the most between two flushes
PIPE_BYTES = 1 << 18  # [64 KB] the reader works on while the next lines are made: a tenth faster; in 1 MB no more
WRITE_BYTES = 1 << 20  # lines held in memory at the most, whatever the messages inflate to
LZ4_MAGIC = b"\x04\x22\x4d\x18"  # 0x184D2204 in little endian: LZ4 Frame Format Description, "General Structure"
MAX_INFLATED = 16 << 20  # bytes; the vendor's messages are at most 1 MB before decompression

START_SECONDS = 10  # in which the broker has to answer; a slow link with TLS and SCRAM needs two or three
DOWN_SECONDS = 3  # the same once every address has failed: one host may have a second address
QUIET_SECONDS = 60  # after so long a trouble is news again; librdkafka reports a lasting one every 30 s
REFUSED_SECONDS = 10  # a login refused for so long is refused for good

LOGIN_REFUSED = "SASL authentication error"
# What librdkafka says, and what the user can do about it; the first that fits counts. At the start each is final.
REMEDIES = {
    "mechanism handshake failed": "the broker does not offer this kind of login: check sasl.mechanisms",
    LOGIN_REFUSED: "the login was refused: check sasl.username and sasl.password",
    "SSL alert": "the client certificate was refused: check ssl.certificate.location and ssl.key.location",
    "PLAINTEXT broker listener": "no TLS on this port: check security.protocol and the port in bootstrap.servers",
    "certificate verify failed": "the broker's certificate is not trusted: check ssl.ca.location, and whether "
    "ssl.endpoint.identification.algorithm must be none because the certificate does not name the host",
    "Unknown topic or partition": "there is no topic {topic}: check --topic",
    "Topic authorization failed": "this user may not read topic {topic}: check --topic and sasl.username",
    "Group authorization failed": "this user may not use group {group}: group.id must begin with the username",
    "fenced": "another copy has the same group.instance.id",
    "instance ID is still used": "another copy has the same group.instance.id",
    "Invalid session timeout": "the broker does not allow this session.timeout.ms",
    "key values mismatch": "ssl.key.location is not the key of the certificate in ssl.certificate.location",
    "location failed": "this is not the right kind of file, or not in PEM format",
    "no certificate assigned": "ssl.key.location is set, so ssl.certificate.location must be, too",
}
FINAL = {  # only a person can help, also when it comes after hours
    KafkaError._FATAL,
    KafkaError._AUTO_OFFSET_RESET,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.INVALID_SESSION_TIMEOUT,
}

START_FORMS = "beginning, end, 30m, 2h, 1d or 2026-11-23T10:00[:00][Z|+02:00] (local time without a zone)"
EXAMPLES = """\
examples:
  python consumer.py --topic tron.broadcasted.transactions
  python consumer.py --topic tron.broadcasted.transactions --max-messages 5 | jq '.value | fromjson'
  python consumer.py --topic tron.broadcasted.transactions --from 2h > transactions.jsonl
  python consumer.py --topic tron.broadcasted.transactions --quiet >> transactions.jsonl

Each line is {"partition": 0, "offset": 42, "value": "..."}. A value that is not UTF-8 is base64, and its line has
a fourth key, "encoding": "base64"; a tombstone's value is null. Ctrl-C stops, and the next run goes on from there.
"""


class Failure(Exception):
    """Ends the run; its text is the line for the user."""

    status = 1


class ConfigError(Failure):
    """The same, where the arguments or the INI are at fault."""

    status = 2


class Log:
    """Standard error: what is to be said beside the messages, and the progress line that is rewritten in place."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self._progress_shown = False
        self._lasting: dict[str, tuple[float, float]] = {}  # kind of trouble -> when it began, was last reported

    def note(self, text: str) -> None:
        """Say what --quiet leaves out."""
        if not self.quiet:
            self._write(f"{text}\n")

    def warn(self, text: str) -> None:
        """Say what the run survives."""
        self._write(f"warning: {text}\n")

    def warn_once(self, kind: str, text: str) -> float:
        """Warn of a trouble that is reported again and again; return for how many seconds it has lasted."""
        now = time.monotonic()
        began, reported = self._lasting.get(kind, (now, -QUIET_SECONDS))
        if now - reported >= QUIET_SECONDS:
            began = now
            self.warn(text)
        self._lasting[kind] = began, now
        return now - began

    def error(self, text: str) -> None:
        """Say what ends the run."""
        self._write(f"error: {text}\n")

    def progress(self, text: str) -> None:
        """Show `text`, cut to the terminal's width, until something else is said."""
        with contextlib.suppress(OSError):  # the terminal has been closed
            width = os.get_terminal_size(sys.stderr.fileno()).columns or 80
            self._write(f"{text[: width - 1]}\r")  # \r: what others write to the terminal goes over it
            self._progress_shown = True

    def keep_progress(self) -> None:
        """Leave the progress line as it stands."""
        if self._progress_shown:
            self._progress_shown = False
            self._write("\n")

    def log(self, level: int, form: str, *arguments: str) -> None:
        """Take librdkafka's log, as logging.Logger does. Only this of it has no callback, and matters."""
        text = re.sub(r"^.*\[thrd:.*?\]: ", "", form % arguments)
        if "offset reset" in text:
            self.warn(f"messages were deleted before they could be read: {text}")

    def _write(self, text: str) -> None:
        clear = "\x1b[K" if self._progress_shown else ""
        self._progress_shown = False
        with contextlib.suppress(OSError):  # nobody listens any more; the messages still count
            sys.stderr.write(clear + text)
            sys.stderr.flush()


class StopSignal:
    """Ctrl-C and SIGTERM: the first sets `received`, a second one ends the process at once."""

    NUMBERS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.received = False
        for number in self.NUMBERS:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGALRM, self._give_up)
        # A thread waits for them: an exception raised in poll() would lose the message that poll() holds.
        signal.pthread_sigmask(signal.SIG_BLOCK, self.NUMBERS)
        threading.Thread(target=self._wait, daemon=True).start()

    def _wait(self) -> None:
        signal.sigwait(self.NUMBERS)
        signal.setitimer(signal.ITIMER_REAL, FINISH_SECONDS, POLL_SECONDS)
        self.received = True
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self.NUMBERS)  # a second one kills, wherever the process hangs
        time.sleep(GOODBYE_SECONDS)
        os._exit(1)

    def _give_up(self, _: int, interrupted: FrameType | None) -> None:
        if interrupted is not None and interrupted.f_code is write_all.__code__:  # anything else ends by itself
            raise Failure("standard output is blocked: what it did not take will be printed by the next run")

    def disarm(self) -> None:
        """Say that the batch in hand is finished."""
        signal.setitimer(signal.ITIMER_REAL, 0)


# -- settings


def read_config(path: str, log: Log) -> dict[str, str]:
    """Return librdkafka's properties from section [kafka] of an INI, with this script's defaults.

    Values are literal. `*.location` is relative to the INI; a key without a value counts as left out.
    Raises ConfigError.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            text, mode = file.read(), os.fstat(file.fileno()).st_mode
    except FileNotFoundError:
        raise ConfigError(f"{path} not found: copy it (install -m 600 config.example.ini {path}) and edit it") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8: {error.reason} at byte {error.start}") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None

    settings = {key: value for key, value in parse_ini(path, text).items() if value}
    for key in ("sasl.username", "sasl.password"):
        if settings.get(key) in PLACEHOLDERS:
            raise ConfigError(f"{path}: {key} is still the example's: put in your own")
    if mode & 0o044:
        log.warn(f"{path} holds a password and others may read it: chmod 600 {path}")
    if not settings.keys() & {"bootstrap.servers", "metadata.broker.list"}:
        raise ConfigError(f"{path}: bootstrap.servers is missing")
    if "group.id" not in settings:
        if "sasl.username" not in settings:
            raise ConfigError(f"{path}: sasl.username is missing (without a login: group.id)")
        settings["group.id"] = f"{settings['sasl.username']}-group-1"
    for key, value in settings.items():
        if key.endswith(".location") and value != "probe":  # ssl.ca.location = probe: the system's own
            location = os.path.join(os.path.dirname(os.path.abspath(path)), os.path.expanduser(value))
            if not os.access(location, os.R_OK):
                raise ConfigError(f"{path}: {key}: there is no readable file {location}")
            settings[key] = location
    return {**DEFAULTS, **settings, **FORCED}


def parse_ini(path: str, text: str) -> dict[str, str]:
    """Return the keys of the one section [kafka] of an INI's text. Raises ConfigError, which never quotes a value."""
    lines = [line.strip() for line in text.split("\n")]  # without its indentation a line continues no value
    for number, line in enumerate(lines, 1):
        if "\0" in line or not re.fullmatch(r"(\[[^]]*\]|[#;].*|[\w.-]+\s*=.*)?", line):
            raise ConfigError(f'{path}, line {number} is not "key = value"')
    parser = configparser.ConfigParser(interpolation=None, delimiters=("=",), default_section="")
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # keys as written
    try:
        parser.read_string("\n".join(lines))
    except (configparser.DuplicateOptionError, configparser.DuplicateSectionError) as error:
        name = getattr(error, "option", error.section)
        raise ConfigError(f"{path}, line {error.lineno}: {name} is there twice") from None
    except configparser.MissingSectionHeaderError as error:
        raise ConfigError(f"{path}, line {error.lineno}: [kafka] must come before the first key") from None
    if parser.sections() != ["kafka"]:
        raise ConfigError(f"{path} must have the section [kafka] and no other: see config.example.ini")
    return dict(parser["kafka"])


def topic_name(text: str) -> str:
    """Return `text` if Kafka allows it as a topic's name; librdkafka would take ^... as a pattern."""
    if not re.fullmatch(r"[a-zA-Z0-9._-]{1,249}", text) or text in (".", ".."):
        raise argparse.ArgumentTypeError("a topic name has 1 to 249 characters out of a-z A-Z 0-9 . _ -")
    return text


def positive(text: str) -> int:
    """Return `text` as a whole number of at least 1."""
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 on, not {text!r}")
    return int(text)


def start_point(text: str) -> int:
    """Return what --from means: OFFSET_BEGINNING, OFFSET_END, or milliseconds since 1970."""
    if text in ("beginning", "end"):
        return confluent_kafka.OFFSET_BEGINNING if text == "beginning" else confluent_kafka.OFFSET_END
    now = time.time()
    try:
        if ago := re.fullmatch(r"([0-9]{1,9})([mhd])", text):
            moment = now - int(ago[1]) * {"m": 60, "h": 3600, "d": 86400}[ago[2]]
        elif re.fullmatch(r"[\d-]{10}T\d\d:\d\d(:\d\d)?(Z|[+-]\d\d:\d\d)?", text):
            moment = datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
        else:
            raise ValueError
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"must be {START_FORMS}, not {text!r}") from None
    if moment > now:
        raise argparse.ArgumentTypeError(f"{text} is in the future")
    return max(0, int(moment * 1000))  # Kafka reads negative ones as beginning and end


# -- a message and its line

to_json = json.JSONEncoder(ensure_ascii=False).encode


class TooLarge(Exception):
    """A value would decompress to more than MAX_INFLATED bytes."""


def decompress(value: bytes) -> bytes:
    """Return what the LZ4 frames in `value` hold, one after the other; `value` itself where it is anything else.

    Raises TooLarge.
    """
    if not value.startswith(LZ4_MAGIC):
        return value
    parts = []
    room = MAX_INFLATED
    rest = memoryview(value)
    while rest:
        try:
            # Bounded by max_length: a frame's header may claim, and its blocks may hold, any size.
            part, size, whole = decompress_chunk(create_decompression_context(), rest, max_length=room + 1)
        except RuntimeError:
            return value
        room -= len(part)
        if room < 0:
            raise TooLarge
        if not whole or rest[:4] != LZ4_MAGIC:  # liblz4 would skip a skippable frame, and its bytes be lost
            return value
        parts.append(part)
        rest = rest[size:]
    return b"".join(parts)


def json_line(partition: int, offset: int, value: bytes | None, warn: Callable[[str], None]) -> bytes:
    """Return the line of a message: UTF-8 JSON with a newline, from which the value's every byte can be got back."""
    if value is None:
        text = "null"
    else:
        try:
            value = decompress(value)
        except TooLarge:
            warn(f"partition {partition}, offset {offset}: inflates to over {MAX_INFLATED >> 20} MiB, printed as it is")
        try:
            text = to_json(value.decode())
        except UnicodeDecodeError:
            text = f'"{base64.b64encode(value).decode()}", "encoding": "base64"'
    return f'{{"partition": {partition}, "offset": {offset}, "value": {text}}}\n'.encode()


def write_all(descriptor: int, lines: bytearray) -> int:
    """Write all of `lines`, empty it, and return how many bytes that were. Raises OSError.

    Past Python's own buffer, in which something could be left to fail later.
    """
    size = len(lines)
    with memoryview(lines) as rest:
        done = 0
        while done < size:
            done += os.write(descriptor, rest[done:])
    lines.clear()
    return size


def end_torn_line(descriptor: int) -> None:
    """End the half line that a killed run may have left at the end of a file. Raises OSError."""
    end = b"\n"
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        with contextlib.suppress(OSError), open(f"/dev/fd/{descriptor}", "rb") as file:
            file.seek(-1, os.SEEK_END)  # raises OSError where the file is empty
            end = file.read(1)
    if end != b"\n":
        os.write(descriptor, b"\n")


def reader_is_gone(descriptor: int) -> bool:
    """Tell whether the pipe's reader has closed it, which a write would notice only with the next message."""
    watch = select.poll()
    watch.register(descriptor, 0)  # POLLERR is always reported
    return any(event & select.POLLERR for _, event in watch.poll(0))


# -- Kafka


def plain(error: KafkaError) -> str:
    """Return librdkafka's message without what only its developers need."""
    text = re.sub(
        r"^Failed to create consumer: |: broker certificate could not .*| \(after \d+ms.*|\s+$", "", error.str()
    )
    return re.sub(r"\b\w+://|/(bootstrap|\d+)(?=: )", "", text)


def remedy_for(text: str) -> str:
    """Return what REMEDIES says to librdkafka's message, or nothing."""
    return next((advice for words, advice in REMEDIES.items() if words in text), "")


class Troubles:
    """Judges what librdkafka reports: the end of the run, or something that passes."""

    def __init__(self, log: Log, topic: str, group: str) -> None:
        self.log = log
        self.topic = topic
        self.group = group
        self.running = False  # True once the broker has answered
        self.reasons: dict[str, str] = {}  # until then: broker -> why it does not
        self.all_down = False

    def take(self, error: KafkaError) -> None:
        """Judge an error that came by error_cb or as a message. Raises Failure where only a person can help."""
        code, text = error.code(), plain(error)
        remedy = remedy_for(text).format(topic=self.topic, group=self.group)
        failure = Failure(f"{remedy} ({text})" if remedy else text)
        if code in FINAL or (remedy and not self.running):
            raise failure
        all_down = code == KafkaError._ALL_BROKERS_DOWN
        if not self.running:
            if all_down:
                self.all_down = True
            else:
                broker, _, reason = text.partition(": ")
                self.reasons[broker] = reason
        elif code == KafkaError._MAX_POLL_EXCEEDED:
            self.log.warn("standard output was blocked for longer than max.poll.interval.ms: joining the group again")
        elif LOGIN_REFUSED not in text:
            reason = "no broker can be reached" if all_down else text
            self.log.warn_once("connection", f"{reason}; trying again until it works")
        elif self.log.warn_once("login", f"{text}; trying again for a while") > REFUSED_SECONDS:
            raise failure

    def committed(self, error: KafkaError | None, _: list[TopicPartition]) -> None:
        """Take the outcome of a commit, which comes by on_commit."""
        if error is not None and error.code() != KafkaError._NO_OFFSET:
            text = f"offsets were not committed, what was printed since may be printed again: {plain(error)}"
            self.log.warn_once("connection", text)  # for it mostly follows from one that was lost


def whole_seconds(seconds: float) -> datetime.timedelta:
    """Return a length of time that prints as 1:02:03."""
    return datetime.timedelta(seconds=max(0, int(seconds)))


class Progress:
    """What the group gave, what was printed of it, and how far that is behind the end of the topic."""

    def __init__(self, consumer: Consumer, troubles: Troubles, total: int, config: dict[str, str], moved: bool) -> None:
        self.consumer = consumer
        self.troubles = troubles
        self.log = troubles.log
        self.total = total  # the topic's partitions
        self.moved = moved  # by --from
        reset = config.get("auto.offset.reset", "latest")  # what becomes of a partition without a committed offset
        self.from_beginning = reset in ("smallest", "earliest", "beginning")
        self.from_end = reset in ("largest", "latest", "end")
        self.commits = config.get("enable.auto.commit", "true").lower() in ("true", "t", "1")
        self.joined = False
        self.assigned: dict[int, int] = {}  # partition -> committed offset
        self.first: dict[int, int] = {}  # partition -> offset of the first message printed
        self.last: dict[int, int] = {}
        self.messages = self.bytes = 0
        self.newest = 0.0  # when the newest message printed was produced, in seconds since 1970
        self.in_place = sys.stderr.isatty()
        shown = not self.log.quiet and not (self.in_place and sys.stdout.isatty())
        self.interval = (1.0 if self.in_place else 60.0) if shown else float("inf")
        self.started = self._told_at = time.monotonic()
        self._told = (0, 0)

    def on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Take account of partitions that the group gives. Raises Failure where the topic is gone."""
        resumes = False
        with contextlib.suppress(KafkaException):  # what goes wrong here comes by error_cb, too
            partitions = consumer.committed(partitions, timeout=START_SECONDS)
            resumes = any(one.offset >= 0 for one in partitions)
            if self.from_end and self.commits:
                partitions = self._pin(partitions)
            if not partitions:  # the other copies have them all; or, with group.protocol = consumer, it was deleted
                describe_topic(consumer, self.troubles, START_SECONDS)
        self.assigned.update({one.partition: one.offset for one in partitions})
        if self.joined:
            return
        self.joined = True
        plan = "starts at the beginning" if self.from_beginning else "waits for new messages"
        if resumes:
            plan = "starts where --from says" if self.moved else "resumes after the last one printed"
        share = f"{len(partitions)} of {self.total} partitions"
        self.log.note(f"{self.troubles.topic}: {share}, group {self.troubles.group}: {plan}")

    def _pin(self, partitions: list[TopicPartition]) -> list[TopicPartition]:
        """Commit where a partition without a committed offset begins; return all partitions with their offsets.

        Else what comes before its first commit would be lost with a restart, which would begin at the end again.
        """
        known = [one for one in partitions if one.offset >= 0]
        new = [one for one in partitions if one.offset < 0]
        if not new:
            return known
        for one in new:  # one that was added to the topic meanwhile has only new messages
            one.offset = confluent_kafka.OFFSET_END if one.partition < self.total else confluent_kafka.OFFSET_BEGINNING
        begins = self.consumer.offsets_for_times(new, timeout=START_SECONDS)
        self.consumer.commit(offsets=begins, asynchronous=False)
        return known + begins

    def on_revoke(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        """Take account of partitions that the group takes away."""
        for one in partitions:
            self.assigned.pop(one.partition, None)

    def count(self, messages: int, size: int, last: dict[int, Message]) -> None:
        """Take account of a batch that has been printed: its messages, bytes, and last message in each partition."""
        self.messages += messages
        self.bytes += size
        for partition, message in last.items():
            self.last[partition] = message.offset() or 0
            self.newest = max(self.newest, message.timestamp()[1] / 1000)

    def lag(self) -> int | str:
        """Return how many messages are still to be printed, by the watermarks of the latest fetches: no request."""
        if not self.assigned:
            return "unknown"
        lag = 0
        for partition, committed in self.assigned.items():
            asked = TopicPartition(self.troubles.topic, partition)
            low, high = self.consumer.get_watermark_offsets(asked, cached=True) or (0, 0)
            if committed >= 0 or partition in self.last or self.from_beginning:
                lag += max(0, high - max(low, committed, self.last.get(partition, -1) + 1))
        return lag

    def tell(self) -> None:
        """Tell it, where it is time to."""
        now = time.monotonic()
        seconds = now - self._told_at
        if seconds < self.interval:
            return
        messages, size = self.messages - self._told[0], self.bytes - self._told[1]
        self._told_at, self._told = now, (self.messages, self.bytes)
        speed = f"{messages / seconds:.0f}/s, {size / seconds / 1e6:.1f} MB/s"
        text = f"{self.messages} messages, {speed}, lag {self.lag()}"
        if self.newest:
            text += f", newest {whole_seconds(time.time() - self.newest)} old"
        if self.in_place:
            self.log.progress(text)
        else:
            self.log.note(f"{datetime.datetime.now().astimezone().isoformat(timespec='seconds')} {text}")

    def summary(self) -> str:
        """Return the line for the end; to be called before the consumer is closed."""
        text = f"stopped: {self.messages} messages in {whole_seconds(time.monotonic() - self.started)}"
        if self.last:
            offsets = f"{min(self.first.values())} to {max(self.last.values())}"
            text += f", offsets {offsets} in {len(self.last)} partition{'s' * (len(self.last) > 1)}"
        return f"{text}, lag {self.lag()}"


def connect(path: str, config: dict[str, str], troubles: Troubles) -> Consumer:
    """Return a consumer that has yet to connect. Raises ConfigError where a property is unknown or its value bad."""
    callbacks: dict[str, Any] = {"error_cb": troubles.take, "on_commit": troubles.committed}
    # With a logger the lines of `debug` would wait in a queue for poll(); without one the library prints them.
    callbacks["logger"] = None if "debug" in config else troubles.log
    try:
        return Consumer({**config, **callbacks})
    except KafkaException as error:
        text = plain(error.args[0])
        remedy = remedy_for(text)
        raise ConfigError(f"{path}: {remedy} ({text})" if remedy else f"{path}: {text}") from None
    except (TypeError, ValueError, AttributeError) as error:  # the binding's own keys want Python objects
        raise ConfigError(f"{path}: {error}") from None


def describe_topic(consumer: Consumer, troubles: Troubles, seconds: float) -> list[int]:
    """Return the topic's partitions. Raises Failure where it may not be read; KafkaException without an answer."""
    found = consumer.list_topics(troubles.topic, timeout=seconds).topics[troubles.topic]
    if found.error is not None:
        troubles.take(found.error)
    return list(found.partitions)


def wait_for_topic(consumer: Consumer, servers: str, troubles: Troubles, stop: StopSignal) -> list[int]:
    """Return the topic's partitions, which proves connection, login and topic; none where a signal came first.

    Raises Failure with the reason that each broker gave.
    """
    started = time.monotonic()
    waited = 0.0
    while not stop.received:
        try:
            # An answer that comes too late is lost, so on a slow link it is waited for longer each time.
            partitions = describe_topic(consumer, troubles, min(2, POLL_SECONDS + waited / 3))
            troubles.running = True
            return partitions
        except KafkaException:
            consumer.poll(POLL_SECONDS / 10)  # calls error_cb, which alone is told the reason
        waited = time.monotonic() - started
        reasons = "; ".join(f"{broker}: {reason}" for broker, reason in troubles.reasons.items())
        if troubles.all_down and not reasons:
            raise Failure(f"{servers} closed the connection: check security.protocol, a TLS port needs SASL_SSL")
        if waited > (DOWN_SECONDS if troubles.all_down else START_SECONDS):
            raise Failure(f"no broker answers: check bootstrap.servers and the network ({reasons or servers})")
    return []


def move_group(consumer: Consumer, partitions: list[int], point: int, troubles: Troubles) -> str:
    """Commit the offsets of `point` (see start_point) for the group; return them as text.

    Raises Failure where the group has members or may not be used; nothing is moved then.
    """

    def offsets_at(point: int) -> list[TopicPartition]:
        asked = [TopicPartition(troubles.topic, partition, point) for partition in partitions]
        return consumer.offsets_for_times(asked, timeout=START_SECONDS)

    offsets = offsets_at(point)
    if any(found.offset < 0 for found in offsets):  # no message is as new as that
        ends = offsets_at(confluent_kafka.OFFSET_END)
        offsets = [end if found.offset < 0 else found for found, end in zip(offsets, ends)]
    try:
        consumer.committed(offsets, timeout=START_SECONDS)  # commit() waits 45 s where the group may not be used
        consumer.commit(offsets=offsets, asynchronous=False)
    except KafkaException as error:
        if (message := consumer.poll(POLL_SECONDS)) is not None and (reason := message.error()) is not None:
            troubles.take(reason)
        if error.args[0].code() != KafkaError.UNKNOWN_MEMBER_ID:
            raise
        raise Failure(
            f"--from moved nothing, because group {troubles.group} is in use: stop its other copies (a killed one "
            "leaves after session.timeout.ms), or set another group.id"
        ) from None
    if len(offsets) > 8:
        values = [found.offset for found in offsets]
        return f"--from: {len(offsets)} partitions at offsets {min(values)} to {max(values)}"
    return "--from: " + ", ".join(f"partition {found.partition} at offset {found.offset}" for found in offsets)


def take_batch(consumer: Consumer, limit: int) -> list[Message]:
    """Return up to `limit` messages: waits a while for the first, never for the batch to fill."""
    first = consumer.poll(POLL_SECONDS)
    return [] if first is None else [first, *consumer.consume(limit - 1, 0)]


def store_offsets(consumer: Consumer, messages: Iterable[Message]) -> None:
    """Mark each message as the last one printed of its partition, which the next commit tells the broker."""
    for message in messages:
        try:
            consumer.store_offsets(message)
        except KafkaException as error:
            if error.args[0].code() != KafkaError._STATE:  # a rebalance took the partition: others print it again
                raise


def print_messages(consumer: Consumer, limit: int, troubles: Troubles, progress: Progress, stop: StopSignal) -> None:
    """Print `limit` messages, or until a signal comes. Raises Failure; OSError where standard output fails."""
    out = sys.stdout.fileno()
    os.set_blocking(out, True)  # who started it may have set it otherwise
    end_torn_line(out)
    with contextlib.suppress(OSError, AttributeError):  # it is no pipe; this is not Linux
        fcntl.fcntl(out, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    warn, first = progress.log.warn, progress.first
    while not stop.received and progress.messages < limit:
        batch = take_batch(consumer, min(BATCH, limit - progress.messages))
        if not batch and reader_is_gone(out):
            raise BrokenPipeError
        errors: list[KafkaError] = []
        last: dict[int, Message] = {}
        lines = bytearray()
        size = printed = 0
        for message in batch:
            if (error := message.error()) is not None:
                errors.append(error)
                continue
            partition: Any = message.partition()  # by the binding's types it could be None
            offset: Any = message.offset()
            lines += json_line(partition, offset, message.value(), warn)
            first.setdefault(partition, offset)
            last[partition] = message
            printed += 1
            if len(lines) > WRITE_BYTES:
                size += write_all(out, lines)
                if stop.received:
                    break
        size += write_all(out, lines)
        store_offsets(consumer, last.values())
        progress.count(printed, size, last)
        for error in errors:
            if error.code() != KafkaError._PARTITION_EOF:
                troubles.take(error)
        progress.tell()


def run(arguments: argparse.Namespace, log: Log) -> None:
    """Read the settings, connect, print, and say goodbye to the group. Raises Failure, KafkaException, OSError."""
    config = read_config(arguments.config, log)
    if sys.stdout is None:
        raise Failure("standard output is closed")
    troubles = Troubles(log, arguments.topic, config["group.id"])
    consumer = connect(arguments.config, config, troubles)
    stop = StopSignal()
    progress = None
    try:
        servers = config.get("bootstrap.servers") or config["metadata.broker.list"]
        partitions = wait_for_topic(consumer, servers, troubles, stop)
        if stop.received:
            return
        if arguments.start is not None:
            log.note(move_group(consumer, partitions, arguments.start, troubles))
        progress = Progress(consumer, troubles, len(partitions), config, arguments.start is not None)
        consumer.subscribe([arguments.topic], on_assign=progress.on_assign, on_revoke=progress.on_revoke)
        print_messages(consumer, arguments.max_messages, troubles, progress, stop)
    finally:
        stop.disarm()
        log.keep_progress()
        if progress is not None:
            log.note(progress.summary())
        consumer.close()  # commits what is stored, and leaves the group


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script with the arguments `argv` (the command line's by default); return its exit status.

    0: stopped by Ctrl-C, SIGTERM, --max-messages or the end of its reader. 1: Kafka or standard output failed.
    2: usage or configuration.
    """
    if sys.stderr is None:  # closed: print() would take standard output, and a socket the descriptor
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    library = f"confluent-kafka {confluent_kafka.__version__}, librdkafka {confluent_kafka.libversion()[0]}"
    parser = argparse.ArgumentParser(
        description="Print the messages of a Kafka topic as JSON Lines.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    option = parser.add_argument
    option("--topic", required=True, type=topic_name, help="the topic to read")
    option("--config", default="config.ini", metavar="FILE", help="connection settings [config.ini]")
    option("--max-messages", type=positive, default=sys.maxsize, metavar="N", help="stop after N messages")
    option("--from", dest="start", type=start_point, metavar="WHEN", help=f"first move the group: {START_FORMS}")
    option("--quiet", action="store_true", help="say nothing but warnings and errors")
    option("--version", action="version", version=f"%(prog)s {__version__}, {library}", help="what a bug report needs")
    arguments = parser.parse_args(argv)
    log = Log(arguments.quiet)
    try:
        run(arguments, log)
    except Failure as failure:
        log.error(str(failure))
        return failure.status
    except KafkaException as error:
        log.error(f"Kafka: {plain(error.args[0])}")
        return 1
    except BrokenPipeError:
        pass  # the reader has what it wanted
    except OSError as error:
        log.error(f"standard output: {error.strerror}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
