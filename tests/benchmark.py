#!/usr/bin/env python3
"""How fast, light and prompt consumer.py is beside the vendor's loop and kcat, on a real Kafka on loopback.

    python tests/benchmark.py --quick
    python tests/benchmark.py --svg tests/benchmark.svg
    python tests/benchmark.py --latency 0 --consumer old/consumer.py

Every contender reads the same topic over SASL_SSL, in a consumer group of its own, into a pipe that is read as fast
as it can be, the script also into a file, with its syncs. Broker and reader share the machine with it: compare the
ratios. What travels from machine to machine is the CPU time for a million messages. Needs Linux and
tests/requirements.txt; kcat takes part where it is installed.
"""

import argparse
import html
import itertools
import os
import platform
import re
import runpy
import select
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import confluent_kafka
import lz4.frame
from confluent_kafka import Producer
from harness import vendor_loop
from harness.blocks import timed_block
from harness.broker import INTERRUPTED, USER, Broker, temporary_broker
from harness.environment import SCRIPT, user_environment
from harness.process import peak_memory
from harness.settings import settings, write_config

VENDOR, OURS, KCAT, TUNED, FILE = "vendor's loop", "consumer.py", "kcat", " tuned", " into a file"
DEFAULTS = runpy.run_path(str(SCRIPT))["DEFAULTS"]
TUNING = {key: DEFAULTS[key] for key in ("fetch.queue.backoff.ms", "queued.max.messages.kbytes")}
ENVIRONMENT = user_environment(KCAT_CONFIG=os.devnull)
PLAIN_LOGIN = {"sasl.mechanisms": "PLAIN", "sasl.password": "benchmark"}
PLAIN_MODULE = "org.apache.kafka.common.security.plain.PlainLoginModule"
BROKER = {
    "listener.name.sasl_ssl.sasl.enabled.mechanisms": "SCRAM-SHA-512,PLAIN",
    "listener.name.sasl_ssl.plain.sasl.jaas.config": f'{PLAIN_MODULE} required user_{USER}="benchmark";',
}

FULL = {"large-lz4": 100_000, "small-lz4": 1_000_000, "large": 50_000, "small": 1_000_000, "rounds": 3, "latency": 20}
QUICK = {"large-lz4": 15_000, "small-lz4": 150_000, "large": 10_000, "small": 150_000, "rounds": 1, "latency": 1}
DISTINCT = 200  # different messages, sent in turn
SLACK = 100  # messages behind the last one expected, because the last ones stay in a contender's own buffer
BLOCK_BYTES = 1 << 20  # asked of a pipe at once
STALL_SECONDS = 60  # without a byte, after which a run has failed
LATENCY_RATE = 100  # messages/s
SETTLE_SECONDS = 1  # after the first line, before latency counts

Picture = dict[str, dict[tuple[str, str], float]]  # title -> kind of message and contender -> length of a bar


def say(text: str) -> None:
    """Tell on standard error what goes on."""
    print(text, file=sys.stderr, flush=True)


class Kind:
    """A kind of message: how many bytes a value has on average, and DISTINCT values as they are in Kafka."""

    def __init__(self, name: str, small: bool, lz4_frames: bool) -> None:
        self.name = name
        self.lz4_frames = lz4_frames
        values = [timed_block(number, time.time_ns(), small) for number in range(DISTINCT)]
        self.size = statistics.mean(map(len, values))
        self.values = [lz4.frame.compress(value) for value in values] if lz4_frames else values


KINDS = {  # by their options
    "large-lz4": Kind("12.7 KB in LZ4", small=False, lz4_frames=True),
    "small-lz4": Kind("440 B in LZ4", small=True, lz4_frames=True),
    "large": Kind("12.7 KB plain", small=False, lz4_frames=False),
    "small": Kind("440 B plain", small=True, lz4_frames=False),
}

# -- measuring


class Running:
    """A contender's process as a context manager, which kills it in the end.

    Its standard output is a pipe, or `file`, which is read as it grows.
    """

    def __init__(self, command: list[str], file: Path | None = None) -> None:
        self.command = command
        self.file = file
        self.block = bytearray(BLOCK_BYTES)
        self.log = tempfile.TemporaryFile()
        self.started = time.monotonic()
        self.output, ours = os.pipe() if file is None else (-1, os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC))
        self.process = subprocess.Popen(command, stdout=ours, stderr=self.log, env=ENVIRONMENT)
        os.close(ours)
        if file is not None:
            self.output = os.open(file, os.O_RDONLY)

    def __enter__(self) -> "Running":
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.output)
        self.log.close()

    def read(self, seconds: float = STALL_SECONDS) -> int:
        """Read into `block` what comes within so many seconds; return how many bytes, or 0."""
        deadline = time.monotonic() + seconds
        while select.select([self.output], [], [], seconds)[0]:
            # Into memory that is there: os.read() would ask the kernel for new pages each time, and be half as fast.
            if size := os.readv(self.output, [self.block]):
                return size
            if self.file is None or self.process.poll() is not None:
                raise self.failure("ended too early")
            if time.monotonic() > deadline:
                break
            time.sleep(0.005)  # a file can always be read
        return 0

    def failure(self, reason: str) -> RuntimeError:
        """Return the error to raise, with what the process has said on standard error."""
        self.log.seek(0)
        return RuntimeError(f"{self.command[:3]} {reason}: {self.log.read()[-2000:].decode(errors='replace')}")

    def cpu(self) -> float:
        """Return the CPU seconds used so far, by the kernel for it, too."""
        # The clock that clock_getcpuclockid(3) names: /proc counts in hundredths of a second.
        return time.clock_gettime((~self.process.pid << 3) | 2)


@dataclass
class Result:
    """One run. Speed and CPU time count from the first line to the last: the start is the same for any backlog."""

    rate: float  # messages/s
    output: float  # MB/s, of the values as they are after decompression
    cpu: float  # seconds per million messages
    memory: float  # MB at the peak
    first: float  # seconds from the start to the first line


def measure(command: list[str], count: int, value_bytes: float, file: Path | None = None) -> Result:
    """Run a command until it has printed `count` lines, into a pipe or a file."""
    with Running(command, file) as run:
        lines = before = run.block.count(b"\n", 0, run.read())
        began, cpu = time.monotonic(), run.cpu()
        while lines < count:
            size = run.read()
            if not size:
                raise run.failure(f"printed {lines} lines instead of {count}")
            lines += run.block.count(b"\n", 0, size)
        if lines == before:
            raise RuntimeError(f"{count} messages are too few: all were in the pipe before the clock started")
        rate = (lines - before) / (time.monotonic() - began)
        cpu = (run.cpu() - cpu) / (lines - before) * 1e6
        return Result(rate, rate * value_bytes / 1e6, cpu, peak_memory(run.process) / 1e6, began - run.started)


def measure_latency(command: list[str], broker: Broker, topic: str, kind: Kind, seconds: float) -> list[float]:
    """Produce LATENCY_RATE messages a second; return how many ms later they were on the pipe: p50, p99, the most."""
    address = broker.address("PLAINTEXT")
    producer = Producer({"bootstrap.servers": address, "linger.ms": 0, "enable.idempotence": True, "log_level": 0})
    produced: list[float] = []  # when, by offset, which idempotence keeps in this order
    latencies: list[float] = []
    begin = 0.0
    rest = b""
    with Running(command) as run:
        due = time.monotonic()
        for value in itertools.islice(itertools.cycle(kind.values), int((STALL_SECONDS + seconds) * LATENCY_RATE)):
            produced.append(time.monotonic())
            producer.produce(topic, value)
            producer.poll(0)
            due += 1 / LATENCY_RATE
            while (wait := due - time.monotonic()) > 0:
                *lines, rest = (rest + run.block[: run.read(wait)]).split(b"\n")
                now = time.monotonic()
                for line in lines:
                    begin = begin or now + SETTLE_SECONDS
                    found = re.search(rb"offset\D+(\d+)", line)
                    assert found is not None, line
                    at = produced[int(found[1])]
                    if at > begin + seconds:
                        percentiles = statistics.quantiles(latencies, n=100, method="inclusive")
                        return [percentiles[49], percentiles[98], max(latencies)]
                    if at >= begin:
                        latencies.append((now - at) * 1e3)
        raise run.failure("printed too few lines")


# -- contenders and their topics


class Bench:
    """The broker with its topics, and the contenders. `directory` is for their INIs."""

    def __init__(self, broker: Broker, directory: Path, others: list[Path]) -> None:
        """Find out who takes part; `others` are other versions of consumer.py."""
        self.broker = broker
        self.directory = directory
        self.scripts = {OURS: SCRIPT, **{str(path): path for path in others}}
        self.contenders = [VENDOR, VENDOR + TUNED, *self.scripts]
        self.kcat_login: dict[str, str] = {}
        if shutil.which("kcat"):
            self.kcat_login = {} if self.kcat_works({}) else PLAIN_LOGIN
            works = {KCAT: self.kcat_works({}), KCAT + TUNED: self.kcat_works(TUNING)}
            self.contenders += [name for name, it_works in works.items() if it_works]

    def kcat(self, tuning: Mapping[str, str], *arguments: str) -> list[str]:
        """Return a command of kcat that connects to the broker."""
        keys = settings(self.broker, {**tuning, **self.kcat_login, "session.timeout.ms": "30000", "group.id": None})
        return ["kcat", *(option for key, value in keys.items() for option in ("-X", f"{key}={value}")), *arguments]

    def kcat_works(self, tuning: Mapping[str, str]) -> bool:
        """Tell whether kcat can log in and knows the properties."""
        outcome = subprocess.run(self.kcat(tuning, "-L", "-m", "10"), capture_output=True, text=True, env=ENVIRONMENT)
        if outcome.returncode:
            say(f"kcat does not work with {self.kcat_login or 'SCRAM'} {tuning}: {outcome.stderr.strip()}")
        return outcome.returncode == 0

    def command(self, contender: str, topic: str, *unbuffered: str) -> list[str]:
        """Return the command that reads a topic from its beginning; `unbuffered` is the option -u, or nothing."""
        tuning = TUNING if contender.endswith(TUNED) else {}
        keys = settings(self.broker, {**tuning, "session.timeout.ms": "30000"})
        if contender.startswith(KCAT):
            return self.kcat(tuning, *unbuffered, "-J", "-G", keys["group.id"], topic)
        config = str(write_config(self.directory / f"{keys['group.id']}.ini", keys))
        if script := self.scripts.get(contender.removesuffix(FILE)):
            return [sys.executable, str(script), "--config", config, "--topic", topic]
        return [sys.executable, *unbuffered, vendor_loop.__file__, config, topic]

    def topic(self, kind: Kind, count: int) -> str:
        """Return a topic with `count` messages and SLACK."""
        say(f"loading {count:,} of {kind.name}")
        name = self.broker.create_topic(f"tron.{time.time_ns()}")
        self.broker.produce(name, itertools.islice(itertools.cycle(kind.values), count + SLACK))
        measure(self.command(VENDOR, name), count, kind.size)  # warms the broker's compiler and the page cache
        return name

    def compare(self, kind: Kind, count: int, rounds: int) -> dict[str, Result]:
        """Measure each once a round, every other round in reverse; return of each the run with the median speed."""
        topic = self.topic(kind, count)
        names = [*self.contenders, *(name + FILE for name in self.scripts)]
        results: dict[str, list[Result]] = {name: [] for name in names}
        for number in range(rounds):
            for name in names[:: -1 if number % 2 else 1]:
                file = self.directory / "lines.jsonl" if name.endswith(FILE) else None
                results[name].append(measure(self.command(name, topic), count, kind.size, file))
                say(f"{kind.name}, round {number + 1} of {rounds}, {name}: {results[name][-1].rate:,.0f} messages/s")
        return {name: sorted(every, key=lambda one: one.rate)[(rounds - 1) // 2] for name, every in results.items()}


# -- the parts

MEASURES: dict[str, Callable[[Result, Result], str]] = {  # column -> its text for a result beside another
    "messages/s": lambda one, _: f"{one.rate:,.0f}",
    "MB/s out": lambda one, _: f"{one.output:.0f}",
    "CPU s per million": lambda one, _: f"{one.cpu:.1f}",
    "peak MB": lambda one, _: f"{one.memory:.0f}",
    "first line s": lambda one, _: f"{one.first:.2f}",
    "speed": lambda one, base: f"{one.rate / base.rate:.2f}",
    "CPU": lambda one, base: f"{one.cpu / base.cpu:.2f}",
    "memory": lambda one, base: f"{one.memory / base.memory:.2f}",
}


def print_table(header: list[str], rows: list[list[str]], *notes: str) -> None:
    """Print a Markdown table with its columns aligned, and notes under it."""
    widths = [max(map(len, column)) for column in zip(header, *rows)]
    for row in [header, ["-" * width for width in widths], *rows]:
        print(f"| {' | '.join(cell.ljust(width) for cell, width in zip(row, widths))} |")
    print("", *notes, sep="\n", end="\n\n", flush=True)


def throughput(bench: Bench, counts: Mapping[Kind, int], rounds: int) -> Picture:
    """Print the table of all kinds of messages and all contenders; return its columns for the picture."""
    picture: Picture = {"speed (more is better)": {}, "CPU time (less)": {}, "peak memory, MB (less)": {}}
    rows = []
    for kind, count in counts.items():
        results = bench.compare(kind, count, rounds)
        base = results[VENDOR]
        for name, one in results.items():
            rows.append([f"{count:,} of {kind.name}", name, *(text(one, base) for text in MEASURES.values())])
            for bars, length in zip(picture.values(), (one.rate / base.rate, one.cpu / base.cpu, one.memory)):
                bars[kind.name, name] = length
    notes = [
        f"A row is one run, that of median speed (of {rounds}). Speed and CPU time count from the first line on,",
        "MB/s in values after decompression. The last three columns are ratios to the vendor's loop.",
        f"Tuned: with consumer.py's settings, {', '.join(map('='.join, TUNING.items()))}.",
    ]
    if KCAT in bench.contenders:
        notes.append("kcat does not decompress LZ4 frames: it prints their bytes, which is no valid JSON.")
    if bench.kcat_login:
        notes.append("kcat logs in by PLAIN: Kafka since 3.8.1 refuses the SCRAM of librdkafka before 2.6.1.")
    print_table(["messages", "contender", *MEASURES], rows, *notes)
    return picture


def latency(bench: Bench, kinds: list[Kind], seconds: float) -> Picture:
    """Print how long messages take from the producer to the pipe; return the p99 for the picture."""
    p99: dict[tuple[str, str], float] = {}
    rows = []
    for kind, name in itertools.product(kinds, bench.contenders):
        topic = bench.broker.create_topic(f"tron.{time.time_ns()}")
        times = measure_latency(bench.command(name, topic, "-u"), bench.broker, topic, kind, seconds)
        rows.append([kind.name, name, *(f"{time:.1f}" for time in times)])
        p99[kind.name, name] = times[1]
        say(f"latency of {kind.name}, {name}: p99 {times[1]:.1f} ms")
    print_table(
        [f"{LATENCY_RATE} messages/s", "contender", "p50 ms", "p99 ms", "most ms"],
        rows,
        f"From the producer to the line on the pipe, one run of {seconds:g} s. The loop runs under python -u, kcat",
        "with -u: without, a line waits until a buffer of Python's or the C library's is full.",
    )
    return {"latency, p99 in ms (less)": p99}


def draw(path: Path, picture: Picture) -> None:
    """Draw a column of bars for each title, with a row for each kind of message and contender, as an SVG."""
    rows = list(dict.fromkeys(itertools.chain(*picture.values())))
    left, width, bar = 30 + 7 * max(len(name) for _, name in rows), 180, 120  # of names, a column, the longest bar
    shapes = [f'<text x="{left + number * width}" y="14">{title}</text>' for number, title in enumerate(picture)]
    y = 0
    for kind, names in itertools.groupby(rows, key=lambda row: row[0]):
        y += 36
        shapes.append(f'<text y="{y}" class="kind">{kind}</text>')
        for row in names:
            y += 16
            style = ' class="ours"' if row[1] == OURS else ""
            shapes.append(f'<g transform="translate(0 {y})"{style}><text x="10">{html.escape(row[1], False)}</text>')
            for number, values in enumerate(picture.values()):
                if row in values:
                    x, value = left + number * width, values[row]
                    end = x + value / max(values.values()) * bar
                    shapes.append(f'<path d="M{x} -4H{end:.0f}"/>')
                    shapes.append(f'<text x="{end + 4:.0f}">{value:.{0 if value >= 10 else 2}f}</text>')
            shapes.append("</g>")
    size = f"{left + len(picture) * width} {y + 10}"
    style = "text{font:12px sans-serif} .kind,.ours{font-weight:bold} path{stroke:#aaa} .ours path{stroke:#06c}"
    begin = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}" stroke-width="12"><style>{style}</style>'
    path.write_text("\n".join([begin, '<rect width="100%" height="100%" fill="#fff"/>', *shapes, "</svg>\n"]))


def machine() -> str:
    """Return what the figures come from."""
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    text = f"{os.cpu_count()} cores of {model[1] if model else platform.machine()}, Python {platform.python_version()}"
    return f"{text}, librdkafka {confluent_kafka.libversion()[0]}"


def stop(*_: object) -> None:
    """Leave by an exception, on whose way out every process is stopped; a second signal does not disturb that."""
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    raise KeyboardInterrupt


def main() -> None:
    """Run the parts asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    option = parser.add_argument
    option("--quick", action="store_true", help="few messages and one round: at most two minutes")
    option("--rounds", type=int, metavar="N", help="runs of each contender")
    for key, kind in KINDS.items():
        option(f"--{key}", dest=key, type=int, metavar="N", help=f"messages of {kind.name}; 0: none in any part")
    option("--latency", type=float, metavar="S", help="seconds for which latency is taken; 0: not at all")
    option("--consumer", type=Path, action="append", default=[], metavar="FILE", help="another consumer.py beside ours")
    option("--svg", type=Path, metavar="FILE", help="draw throughput, memory and latency")
    parser.set_defaults(**(QUICK if "--quick" in sys.argv else FULL))
    arguments = parser.parse_args()
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, stop)
    counts = {kind: count for key, kind in KINDS.items() if (count := getattr(arguments, key))}
    compressed = [kind for kind in counts if kind.lz4_frames]

    print(machine(), end="\n\n", flush=True)
    picture: Picture = {}
    with tempfile.TemporaryDirectory() as directory, temporary_broker(**BROKER) as broker:
        bench = Bench(broker, Path(directory), arguments.consumer)
        if counts:
            picture |= throughput(bench, counts, arguments.rounds)
        if compressed and arguments.latency:
            picture |= latency(bench, compressed, arguments.latency)
    if arguments.svg and picture:
        draw(arguments.svg, picture)


if __name__ == "__main__":
    try:
        main()
    except INTERRUPTED:
        sys.exit(130)
