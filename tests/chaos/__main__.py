#!/usr/bin/env python3
"""Let chance break what consumer.py depends on, and check what it promises.

    $ python tests/chaos --seconds 60 --seed 7 --copies 3

Three nodes of Kafka, a producer that never stops, copies of the script in one group, each with an output of its own
to which its restarts append: a file, or a pipe. The seed draws which faults come when, the same ones each time. At the
end all heals, the group catches up, is stopped as a whole and started once more. Exit status 1: a promise has been
broken; the files are kept. Needs Linux and tests/requirements.txt.
"""

import argparse
import contextlib
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # Python puts this directory there, which is a package

from harness.broker import INTERRUPTED
from harness.cluster import Cluster
from harness.environment import SCRIPT, let_programs_hear
from harness.proxy import Proxy

from chaos.course import Course
from chaos.faults import KINDS
from chaos.feed import PARTITIONS, TOPIC
from chaos.judge import judge


@contextlib.contextmanager
def broken_network(directory: Path) -> Iterator[tuple[Cluster, list[Proxy]]]:
    """Start three nodes, each of which advertises a proxy before itself."""
    with contextlib.ExitStack() as stack:
        cluster = Cluster(directory, **{"auto.leader.rebalance.enable": "false"})
        proxies = []
        for node in cluster.nodes:
            proxies.append(stack.enter_context(Proxy(node.ports["SASL_SSL"])))
            node.advertise(SASL_SSL=f"127.0.0.1:{proxies[-1].port}")
        stack.enter_context(cluster)
        cluster.create_topic(TOPIC, PARTITIONS)
        yield cluster, proxies


def run(options: argparse.Namespace, directory: Path) -> list[str]:
    """Do a run; return what was found."""
    print(f"seed {options.seed}: starting three nodes", flush=True)
    with broken_network(directory / "cluster") as (cluster, proxies):
        course = Course(options, directory, cluster, proxies)
        print(f"{course.protocol} protocol, auto.offset.reset = {course.reset}", flush=True)
        try:
            course.go()
        finally:
            course.end()
    verdict = judge(course.history)
    course.report(verdict)
    return verdict.findings


def main() -> int:
    """Run the checker; return its exit status."""
    parser = argparse.ArgumentParser(prog="chaos", description=(__doc__ or "").partition("\n")[0])
    option = parser.add_argument
    option("--seconds", type=float, default=600, help="how long there are faults [600]")
    option("--seed", type=int, default=int(time.time()), help="what draws the faults [the time]")
    option("--copies", type=int, default=3, help="how many copies of the script share the topic [3]")
    option("--rate", type=int, default=600, help="how many messages are sent in a second [600]")
    option("--script", type=Path, default=SCRIPT, help="another script to check, such as one with a mistake")
    option("--without", action="append", default=[], choices=KINDS, metavar="KIND", help="leave out a kind of fault")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    let_programs_hear()
    directory = Path(tempfile.mkdtemp(prefix="kafka-chaos-"))
    findings = ["it did not come to its end"]
    try:
        findings = run(options, directory)
    except INTERRUPTED:
        return 1
    finally:
        shutil.rmtree(directory / "cluster", ignore_errors=True)
        if not findings:
            shutil.rmtree(directory)
    for text, count in Counter(findings).most_common(20):
        print(f"broken, {count} times: {text}")
    print(f"the files are in {directory}" if findings else "every promise was kept")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
