"""The checker with random faults: a minute of it on the script as it is."""

import subprocess
import sys

import chaos
import pytest
from harness.environment import ROOT, user_environment

SEED = 38


@pytest.mark.xdist_group("cluster")
@pytest.mark.timeout(300)
def test_a_minute_of_faults(kafka: None) -> None:
    command = [sys.executable, str(ROOT / "tests" / "chaos.py"), "--seconds", "60", "--seed", str(SEED)]
    ended = subprocess.run(command, capture_output=True, text=True, env=user_environment())
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.endswith("every promise was kept\n")
    planned = [str(fault) for fault in chaos.schedule(SEED, 60, copies=3)]
    assert [line for line in ended.stdout.splitlines() if " s  " in line][:-1] == planned


def test_the_same_seed_draws_the_same_faults() -> None:
    """And with time each kind of fault."""
    first, again, other = (chaos.schedule(seed, 3600, copies=3) for seed in (1, 1, 2))
    assert first == again != other
    assert {fault.kind for fault in first} == set(chaos.KINDS)
