"""The benchmark runs, on counts so small that its figures mean nothing."""

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from harness.environment import user_environment

BENCHMARK = Path(__file__).parent / "benchmark.py"


@pytest.mark.usefixtures("kafka")
def test_benchmark(tmp_path: Path) -> None:
    """It prints a row for each contender and draws them."""
    svg = tmp_path / "benchmark.svg"
    counts = ["--rounds", "1", "--lz4", "2000", "--small", "0", "--large", "0", "--latency", "0.5"]
    command = [
        sys.executable,
        str(BENCHMARK),
        "--quick",
        *counts,
        "--parts",
        "throughput",
        "latency",
        "--svg",
        str(svg),
    ]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=os.sep,
        env=user_environment(),
    ) as process:
        try:
            output, errors = process.communicate(timeout=100)
        finally:
            process.terminate()  # after a failure it still stops its broker
    assert process.returncode == 0, errors
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in output.splitlines() if line.startswith("|")]
    for contender in ("vendor's loop", "consumer.py"):
        speed, delay = [row[2:] for row in cells if row[1] == contender]
        assert all(float(cell.replace(",", "")) > 0 for cell in speed + delay)
    assert ElementTree.parse(svg).getroot().tag == "{http://www.w3.org/2000/svg}svg"
