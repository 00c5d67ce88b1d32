"""How fast, light and prompt consumer.py is beside the vendor's loop and kcat, on a real Kafka on loopback.

    python tests/benchmark.py --quick
    python tests/benchmark.py --svg tests/benchmark.svg
    python tests/benchmark.py --parts latency copies --rounds 5

Every contender writes to a pipe that is read as fast as it can be. A run has a consumer group of its own and ends
with the last line expected. Absolute figures are the machine's, which broker and reader share with the contender:
compare the ratios. Needs Linux (/proc) and tests/requirements.txt; kcat takes part where it is installed.
"""

import argparse
import contextlib
import functools
import itertools
import os
import platform
import re
import select
import selectors
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

import confluent_kafka
import lz4.frame
import matplotlib
import psutil
from confluent_kafka import Producer
from harness.blocks import timed_block
from harness.broker import USER, Broker, temporary_broker
from harness.environment import SCRIPT
from harness.settings import settings, write_config

TESTS = Path(__file__).resolve().parent
VENDOR, OURS, KCAT, KCAT_TUNED = "vendor's loop", "consumer.py", "kcat", "kcat tuned"
LZ4, SMALL, LARGE = "12.7 KB in LZ4", "440 B", "12.7 KB"
PARTS = ["throughput", "latency", "backlog", "copies", "progress"]
FULL = {"rounds": 3, "lz4": 100_000, "small": 1_000_000, "large": 30_000, "latency": 20.0}
QUICK = {"rounds": 1, "lz4": 40_000, "small": 300_000, "large": 15_000, "latency": 3.0}

DISTINCT = 200  # different messages, sent in turn
SLACK = 100  # messages behind the last one expected, because the last ones stay in a contender's own buffer
BLOCK_BYTES = 1 << 20  # asked of a pipe at once
STALL_SECONDS = 60  # without a byte, after which a run has failed
JOIN_SECONDS = 0.5  # the broker waits after a group's first member, so that copies begin together
KCAT_TUNING = {"fetch.queue.backoff.ms": "10"}  # librdkafka has it since 2.2.0
KCAT_PASSWORD = "benchmark"
BROKER = {
    "group.initial.rebalance.delay.ms": f"{JOIN_SECONDS * 1000:.0f}",
    # For kcat: since 3.8.1 Kafka refuses the SCRAM of librdkafka before 2.6.1, which distributions link it with.
    "listener.name.sasl_ssl.sasl.enabled.mechanisms": "SCRAM-SHA-512,PLAIN",
    "listener.name.sasl_ssl.plain.sasl.jaas.config": "org.apache.kafka.common.security.plain.PlainLoginModule required "
    f'user_{USER}="{KCAT_PASSWORD}";',
}
LATENCY_RATE = 100  # messages/s
SETTLE_SECONDS = 1  # after the first line, before latency counts


def say(text: str) -> None:
    """Tell on standard error what goes on."""
    print(text, file=sys.stderr, flush=True)


# ---- messages ------------------------------------------------------------------------------------------------------


def values(kind: str) -> list[bytes]:
    """Return DISTINCT values of a kind."""
    blocks = [timed_block(number, time.time_ns(), kind == SMALL) for number in range(DISTINCT)]
    return [lz4.frame.compress(value) for value in blocks] if kind == LZ4 else blocks


# ---- one process ---------------------------------------------------------------------------------------------------


def environment() -> dict[str, str]:
    """Return the environment of a user who has not set anything."""
    unset = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    return {**unset, "KCAT_CONFIG": os.devnull}


class Running:
    """A contender's process, whose standard output is a pipe, and standard error a file or a terminal.

    The process ends with the `with` block.
    """

    def __init__(self, command: list[str], terminal: bool) -> None:
        """Start it; `terminal`: with a terminal for standard error."""
        self.command = command
        self.terminal: int | None = None
        self.log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        errors = self.log.fileno()
        if terminal:
            self.terminal, errors = os.openpty()
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, env=environment()
        )
        if terminal:
            os.close(errors)
        assert self.process.stdout is not None
        self.output = self.process.stdout.fileno()

    def __enter__(self) -> "Running":
        """Return it."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Stop it."""
        self.process.kill()
        self.process.communicate()
        self.log.close()
        if self.terminal is not None:
            os.close(self.terminal)

    def read(self, block: bytearray) -> int:
        """Read what has come through the pipe; return how many bytes. Raises RuntimeError at its end."""
        # Into memory that is there: os.read() would ask the kernel for new pages each time, and be half as fast.
        size = os.readv(self.output, [block])
        if not size:
            raise self.failure("ended too early")
        return size

    def failure(self, reason: str) -> RuntimeError:
        """Return the error to raise, with what the process said on a standard error that is a file."""
        self.log.seek(0)
        return RuntimeError(f"{self.command[:2]} {reason}: {self.log.read()[-2000:].decode(errors='replace')}")

    def cpu(self) -> float:
        """Return the CPU seconds used so far, by the kernel for it, too."""
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)

    def peak_memory(self) -> float:
        """Return the most memory it has had at a time, in MB."""
        # Not ru_maxrss, in which a process begins with the size of the parent that forked it.
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6


# ---- measuring -----------------------------------------------------------------------------------------------------


@dataclass
class Result:
    """One run, or the medians of several; of several copies the sums."""

    rate: float  # messages/s, from the first line to the last
    output: float  # MB/s on the pipe, in the same time
    cpu: float  # seconds
    memory: float  # MB at the peak
    first: float  # seconds from the start to the first line


def measure(commands: list[list[str]], expected: int, terminal: bool = False) -> Result:
    """Run commands side by side until together they have printed as many lines as expected."""
    with selectors.DefaultSelector() as selector, contextlib.ExitStack() as stack:
        started = time.monotonic()
        runs = [stack.enter_context(Running(command, terminal)) for command in commands]
        for run in runs:
            selector.register(run.output, selectors.EVENT_READ, run)
            if run.terminal is not None:
                selector.register(run.terminal, selectors.EVENT_READ)
        silent = set(runs)
        lines = size = 0
        block = bytearray(BLOCK_BYTES)
        first = began = 0.0
        lines_before = size_before = 0
        while lines < expected:
            events = selector.select(STALL_SECONDS)
            if not events:
                raise runs[0].failure(f"printed {lines} lines instead of {expected}")
            for key, _ in events:
                if key.data is None:
                    os.read(key.fd, 4096)  # a terminal that nobody reads would block the process
                    continue
                read = key.data.read(block)
                lines += block.count(b"\n", 0, read)
                size += read
                first = first or time.monotonic()
                silent.discard(key.data)
                # From when the last copy has got its share: how fast they join is not how fast they are.
                if not silent and not began:
                    began, lines_before, size_before = time.monotonic(), lines, size
        if not began:
            raise RuntimeError(f"{expected} messages are too few for {len(runs)} copies: read before all had joined")
        seconds = time.monotonic() - began
        return Result(
            rate=(lines - lines_before) / seconds,
            output=(size - size_before) / seconds / 1e6,
            cpu=sum(run.cpu() for run in runs),
            memory=sum(run.peak_memory() for run in runs),
            first=first - started,
        )


def compare(title: str, contenders: Mapping[str, Callable[[], Result]], rounds: int) -> dict[str, Result]:
    """Run each contender once a round, each time another one first; return the medians."""
    results: dict[str, list[Result]] = {name: [] for name in contenders}
    names = list(contenders)
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            result = contenders[name]()
            results[name].append(result)
            say(f"{title}, round {number + 1} of {rounds}, {name}: {result.rate:,.0f} messages/s")
    return {
        name: Result(*(statistics.median(column) for column in zip(*(asdict(one).values() for one in every))))
        for name, every in results.items()
    }


@contextlib.contextmanager
def steady_stream(broker: Broker, topic: str, kind: str) -> Iterator[None]:
    """Produce LATENCY_RATE messages a second, each with its time in it, while the `with` block runs."""
    producer = Producer({"bootstrap.servers": broker.address("PLAINTEXT"), "linger.ms": 0})
    placeholder = 10**18
    before, _, after = timed_block(0, placeholder, kind == SMALL).partition(b"%d" % placeholder)
    over = threading.Event()

    def produce() -> None:
        due = time.monotonic()
        while not over.wait(max(0.0, due - time.monotonic())):
            producer.produce(topic, before + b"%d" % time.time_ns() + after)
            producer.poll(0)
            due += 1 / LATENCY_RATE

    thread = threading.Thread(target=produce)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        producer.flush(10)


def measure_latency(run: Running, seconds: float) -> list[float]:
    """Return how many milliseconds old the messages of so many seconds were on the pipe, in ascending order."""
    latencies: list[float] = []
    begin = 0
    rest = b""
    block = bytearray(BLOCK_BYTES)
    while True:
        if not select.select([run.output], [], [], STALL_SECONDS)[0]:
            raise run.failure("printed nothing")
        size = run.read(block)
        now = time.time_ns()
        begin = begin or now + SETTLE_SECONDS * 10**9
        *lines, rest = (rest + block[:size]).split(b"\n")
        for line in lines:
            found = re.search(rb"Produced\D+(\d+)", line)
            assert found is not None, line
            produced = int(found[1])
            if produced > begin + seconds * 1e9:
                return sorted(latencies)
            if produced >= begin:
                latencies.append((now - produced) / 1e6)


# ---- contenders and their topics -----------------------------------------------------------------------------------


def kcat_options(keys: dict[str, str]) -> list[str]:
    """Return librdkafka's properties as options of kcat, with a login that works."""
    own = {**keys, "sasl.mechanisms": "PLAIN", "sasl.password": KCAT_PASSWORD}
    return [option for key, value in own.items() if key != "group.id" for option in ("-X", f"{key}={value}")]


def kcat_works(keys: dict[str, str]) -> bool:
    """Tell whether there is a kcat that knows these properties, TLS among them, and can log in."""
    if not shutil.which("kcat"):
        say("without kcat: it is not installed")
        return False
    command = ["kcat", *kcat_options(keys), "-L", "-m", "20"]
    outcome = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment())
    if outcome.returncode:
        say(f"without a kcat: {outcome.stderr.strip()[-300:]}")
    return outcome.returncode == 0


class Bench:
    """The broker with its topics, and the contenders."""

    def __init__(self, broker: Broker, directory: Path) -> None:
        """Find out who takes part; `directory` is for their INIs."""
        self.broker = broker
        self.directory = directory
        self.contenders = [VENDOR, OURS]
        if kcat_works(settings(broker)):
            self.contenders.append(KCAT)
        if KCAT in self.contenders and kcat_works(settings(broker, KCAT_TUNING)):
            self.contenders.append(KCAT_TUNED)

    @functools.cache  # noqa: B019  # there is one Bench
    def topic(self, kind: str, count: int, partitions: int = 1) -> str:
        """Return a topic with `count` messages and SLACK, evenly over its partitions."""
        name = self.new_topic(f"{kind} {count} {partitions}", partitions)
        say(f"loading {count:,} messages of {kind}")
        endless = itertools.cycle(values(kind))
        for partition in range(partitions):
            self.broker.produce(name, itertools.islice(endless, count // partitions + SLACK), partition)
        self.run(VENDOR, name, count)  # a run that does not count warms the broker's compiler and the page cache
        return name

    def new_topic(self, words: str, partitions: int = 1) -> str:
        """Return a new topic named after `words`, which keeps its messages."""
        name = "tron." + re.sub(r"\W+", "-", words)
        return self.broker.create_topic(name, partitions, {"retention.ms": "-1", "retention.bytes": "-1"})

    def command(self, contender: str, topic: str, *arguments: str) -> list[str]:
        """Return the command that reads a topic from its beginning, in a new group; `arguments` are consumer.py's."""
        tuning = KCAT_TUNING if contender == KCAT_TUNED else {}
        keys = settings(self.broker, {"session.timeout.ms": "30000", **tuning})
        config = write_config(self.directory / f"{keys['group.id']}.ini", keys)
        if contender == VENDOR:
            return [sys.executable, str(TESTS / "harness" / "vendor_loop.py"), str(config), topic]
        if contender == OURS:
            return [sys.executable, str(SCRIPT), "--config", str(config), "--topic", topic, *arguments]
        return ["kcat", *kcat_options(keys), "-J", "-G", keys["group.id"], topic]

    def run(
        self, contender: str, topic: str, expected: int, *arguments: str, copies: int = 1, terminal: bool = False
    ) -> Result:
        """Measure copies of a contender in one group."""
        return measure([self.command(contender, topic, *arguments)] * copies, expected, terminal)


# ---- the parts -----------------------------------------------------------------------------------------------------

Throughput = dict[str, dict[str, Result]]  # kind -> contender -> medians
Latency = dict[str, dict[str, list[float]]]  # kind -> contender -> milliseconds in ascending order

MEASURES = ["messages/s", "MB/s out", "CPU s", "peak MB", "first line s", "speed ratio", "CPU ratio", "memory ratio"]


def cells(result: Result, base: Result) -> list[str]:
    """Return MEASURES of a result, the ratios being to `base`."""
    return [
        f"{result.rate:,.0f}",
        f"{result.output:.1f}",
        f"{result.cpu:.2f}",
        f"{result.memory:.0f}",
        f"{result.first:.2f}",
        f"{result.rate / base.rate:.2f}",
        f"{result.cpu / base.cpu:.2f}",
        f"{result.memory / base.memory:.2f}",
    ]


def print_table(title: str, header: list[str], rows: list[list[str]]) -> None:
    """Print a Markdown table with its columns aligned."""
    widths = [max(map(len, column)) for column in zip(header, *rows)]
    print(f"{title}\n")
    for row in [header, ["-" * width for width in widths], *rows]:
        print(f"| {' | '.join(cell.ljust(width) for cell, width in zip(row, widths))} |")
    print(flush=True)


def throughput(bench: Bench, counts: dict[str, int], rounds: int) -> Throughput:
    """Print the table of all kinds of messages and all contenders."""
    found: Throughput = {}
    rows = []
    for kind, count in counts.items():
        topic = bench.topic(kind, count)
        runs = {name: functools.partial(bench.run, name, topic, count) for name in bench.contenders}
        found[kind] = compare(kind, runs, rounds)
        rows += [
            [f"{count:,} of {kind}", name, *cells(result, found[kind][VENDOR])] for name, result in found[kind].items()
        ]
    print_table(
        f"Throughput; ratios to the {VENDOR}; the first line waits {JOIN_SECONDS} s for the broker",
        ["messages", "contender", *MEASURES],
        rows,
    )
    return found


def latency(bench: Bench, kinds: list[str], seconds: float) -> Latency:
    """Print how long messages take from the producer to the pipe."""
    found: Latency = {}
    rows = []
    for kind in kinds:
        found[kind] = {}
        for name in bench.contenders:
            topic = bench.new_topic(f"latency {kind} {name}")
            with steady_stream(bench.broker, topic, kind), Running(bench.command(name, topic), False) as run:
                times = found[kind][name] = measure_latency(run, seconds)
            p50, p99 = percentile(times, 50), percentile(times, 99)
            say(f"latency, {kind}, {name}: {p50:.1f} ms, p99 {p99:.1f} ms")
            rows.append([kind, name, f"{p50:.1f}", f"{p99:.1f}", f"{times[-1]:.1f}"])
    title = f"Latency at {LATENCY_RATE} messages/s, from the producer to the line on the pipe"
    print_table(title, ["message", "contender", "p50 ms", "p99 ms", "most ms"], rows)
    return found


def percentile(values: list[float], percent: int) -> float:
    """Return the value that `percent` of the values do not exceed."""
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def backlog(bench: Bench, count: int, rounds: int) -> None:
    """Print whether ten times the backlog costs speed or memory."""
    rows = []
    for name in (VENDOR, OURS):
        runs = {
            f"{size:,}": functools.partial(bench.run, name, bench.topic(LZ4, size), size)
            for size in (count // 10, count)
        }
        results = compare(f"backlog, {name}", runs, rounds)
        rows += [[name, size, *cells(result, results[next(iter(runs))])] for size, result in results.items()]
    print_table(f"Backlog of {LZ4}; ratios to a tenth of it", ["contender", "backlog", *MEASURES], rows)


def copies(bench: Bench, count: int, rounds: int) -> None:
    """Print what copies in one group give, of a topic with three partitions."""
    rows = []
    topic = bench.topic(LZ4, count, 3)
    for name in (VENDOR, OURS):
        runs = {f"{n}": functools.partial(bench.run, name, topic, count, copies=n) for n in (1, 2, 3)}
        results = compare(f"copies, {name}", runs, rounds)
        rows += [[name, number, *cells(result, results["1"])] for number, result in results.items()]
    print_table(f"Copies in one group, {LZ4}; ratios to one copy", ["contender", "copies", *MEASURES], rows)


def progress(bench: Bench, count: int, rounds: int) -> None:
    """Print what it costs to show the progress on a terminal."""
    topic = bench.topic(SMALL, count)
    run = functools.partial(bench.run, OURS, topic, count)
    results = compare(
        "progress",
        {"--quiet": functools.partial(run, "--quiet", terminal=True), "shown": functools.partial(run, terminal=True)},
        rounds,
    )
    rows = [[name, *cells(result, results["--quiet"])] for name, result in results.items()]
    print_table(f"Progress on a terminal, {SMALL}; ratios to --quiet", ["progress", *MEASURES], rows)


def draw(path: Path, rates: Throughput, times: Latency) -> None:
    """Draw throughput, memory and latency as an SVG, the same for the same figures."""
    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "benchmark"
    from matplotlib import pyplot

    panels: list[tuple[str, dict[str, dict[str, float]], str]] = []
    if rates:
        speed = {
            kind: {name: result.rate / results[VENDOR].rate for name, result in results.items()}
            for kind, results in rates.items()
        }
        memory = {kind: {name: result.memory for name, result in results.items()} for kind, results in rates.items()}
        panels += [(f"Throughput, {VENDOR} = 1\nmore is better", speed, "linear")]
        panels += [("Peak memory, MB\nless is better", memory, "linear")]
    if times:
        p99 = {kind: {name: percentile(each, 99) for name, each in results.items()} for kind, results in times.items()}
        panels += [(f"Latency at {LATENCY_RATE} messages/s, p99 in ms\nless is better", p99, "log")]
    figure, axes = pyplot.subplots(1, len(panels), figsize=(4.5 * len(panels), 3.6), squeeze=False)
    for axis, (title, groups, scale) in zip(axes[0], panels):
        names = list(next(iter(groups.values())))
        width = 0.8 / len(names)
        for number, name in enumerate(names):
            positions = [group + (number - (len(names) - 1) / 2) * width for group in range(len(groups))]
            bars = axis.bar(positions, [group[name] for group in groups.values()], width, label=name)
            axis.bar_label(bars, fmt=lambda height: f"{height:.{2 if height < 10 else 0}f}", fontsize=7)
        axis.set_title(title, fontsize=10)
        axis.set_xticks(range(len(groups)), list(groups))
        axis.set_yscale(scale)
        axis.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="lower center", ncols=4, fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    figure.savefig(path, format="svg", metadata={"Date": None})


def machine() -> str:
    """Return what the figures come from."""
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    versions = [
        f"{os.cpu_count()} cores of {model[1] if model else platform.machine()}",
        f"Python {platform.python_version()}",
        f"confluent-kafka {confluent_kafka.__version__} with librdkafka {confluent_kafka.libversion()[0]}",
    ]
    if shutil.which("kcat"):
        said = subprocess.run(["kcat", "-V"], stdin=subprocess.DEVNULL, capture_output=True, text=True).stdout
        versions.append("kcat " + " with librdkafka ".join(re.findall(r"(?:Version|librdkafka) ([\d.]+)", said)))
    return ", ".join(versions)


def main() -> None:
    """Run the parts asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--quick", action="store_true", help="few messages and one round: at most two minutes")
    parser.add_argument("--rounds", type=int, metavar="N", help="runs of each contender")
    parser.add_argument("--lz4", type=int, metavar="N", help=f"messages of {LZ4}; 0 leaves them out")
    parser.add_argument("--small", type=int, metavar="N", help=f"messages of {SMALL}")
    parser.add_argument("--large", type=int, metavar="N", help=f"messages of {LARGE}")
    parser.add_argument("--latency", type=float, metavar="S", help="seconds for which latency is taken")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure [all]")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw throughput, memory and latency")
    parser.set_defaults(**(QUICK if "--quick" in sys.argv else FULL))
    arguments = parser.parse_args()
    # As Ctrl-C: an exception, on whose way out every process is stopped.
    signal.signal(signal.SIGTERM, signal.default_int_handler)

    print(f"{machine()}; medians of {arguments.rounds}\n", flush=True)
    counts = {LZ4: arguments.lz4, SMALL: arguments.small, LARGE: arguments.large}
    rates: Throughput = {}
    times: Latency = {}
    with tempfile.TemporaryDirectory() as directory:
        say("starting the broker")
        with temporary_broker(**BROKER) as broker:
            bench = Bench(broker, Path(directory))
            if "throughput" in arguments.parts:
                rates = throughput(bench, {kind: count for kind, count in counts.items() if count}, arguments.rounds)
            if "latency" in arguments.parts:
                times = latency(bench, [SMALL] if arguments.quick else [SMALL, LARGE], arguments.latency)
            if "backlog" in arguments.parts:
                backlog(bench, arguments.lz4, arguments.rounds)
            if "copies" in arguments.parts:
                copies(bench, arguments.lz4, arguments.rounds)
            if "progress" in arguments.parts:
                progress(bench, arguments.small, arguments.rounds)
    if arguments.svg:
        draw(arguments.svg, rates, times)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
