"""The benchmark runs, on counts so small that its figures mean nothing."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import psutil
import pytest
from harness.environment import ROOT, SCRIPT, user_environment

LOOP = "vendor's loop"

pytestmark = pytest.mark.usefixtures("kafka")


@contextlib.contextmanager
def benchmark(arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """Run the benchmark, which stops its broker however the test ends."""
    with subprocess.Popen(
        [sys.executable, str(ROOT / "tests" / "benchmark.py"), "--quick", *arguments.split()],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=os.sep,
        env=user_environment(),
    ) as process:
        try:
            yield process
        finally:
            process.terminate()


def figures(arguments: str) -> dict[str, dict[str, list[float]]]:
    """Run the benchmark; return the figures of its tables by their first two columns: what, and contender."""
    with benchmark(arguments) as process:
        output, errors = process.communicate()
    assert process.returncode == 0, errors
    found: dict[str, dict[str, list[float]]] = {}
    for line in output.splitlines():
        if line.startswith("|") and not line.startswith("| -") and "contender" not in line:
            what, contender, *cells = [cell.strip() for cell in line.split("|")[1:-1]]
            found.setdefault(what, {})[contender] = [float(cell.replace(",", "")) for cell in cells]
    return found


@pytest.mark.timeout(0)  # on a slow machine it takes long; where nothing comes for a minute, it fails by itself
def test_every_contender_in_every_part(tmp_path: Path) -> None:
    """What has no messages is left out, and another script takes part."""
    svg = tmp_path / "benchmark.svg"
    counts = "--large-lz4 2000 --small-lz4 0 --large 0 --small 20000 --latency 0.5"
    found = figures(f"{counts} --svg {svg} --consumer {SCRIPT}")
    assert list(found) == ["2,000 of 12.7 KB in LZ4", "20,000 of 440 B plain", "12.7 KB in LZ4"]
    scripts = {"consumer.py", str(SCRIPT)}
    for what, rows in found.items():
        files = {f"{name} into a file" for name in scripts} if " of " in what else set()
        assert rows.keys() - {"kcat", "kcat tuned"} == {LOOP, f"{LOOP} tuned", *scripts, *files}
    assert all(figure > 0 for rows in found.values() for row in rows.values() for figure in row)
    assert ElementTree.parse(svg).getroot().tag == "{http://www.w3.org/2000/svg}svg"


def test_stopped_it_leaves_no_process() -> None:
    with benchmark("") as process:
        assert process.stderr is not None
        assert any("loading" in line for line in process.stderr)
        children = psutil.Process(process.pid).children(recursive=True)
        assert children
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 130, process.stderr.read()
        assert psutil.wait_procs(children, timeout=1)[1] == []
