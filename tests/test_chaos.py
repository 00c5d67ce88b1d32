"""The checker with random faults: a minute of it on the script as it is."""

import subprocess
import sys
from pathlib import Path

import pytest
from chaos.faults import KINDS, schedule
from harness.environment import ROOT, user_environment

SEED = 95  # in a minute it draws a power cut, a right taken away, and a reader that sleeps


@pytest.mark.xdist_group("cluster")
@pytest.mark.timeout(300)
def test_a_minute_of_faults(kafka: None) -> None:
    command = [sys.executable, str(ROOT / "tests" / "chaos"), "--seconds", "60", "--seed", str(SEED)]
    ended = subprocess.run(command, capture_output=True, text=True, env=user_environment())
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.endswith("every promise was kept\n")
    planned = [str(fault) for fault in schedule(SEED, 60, copies=3)]
    assert [line for line in ended.stdout.splitlines() if " s  " in line][:-1] == planned


@pytest.mark.parametrize(
    "patch", sorted((ROOT / "tests" / "chaos" / "mutations").iterdir()), ids=lambda path: path.stem
)
def test_each_mutation_is_one_of_the_script_as_it_is(patch: Path) -> None:
    """What they are for: tests/README.md."""
    ended = subprocess.run(["git", "apply", "--check", str(patch)], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


def test_the_same_seed_draws_the_same_faults() -> None:
    """And with time each kind of fault."""
    first, again, other = (schedule(seed, 3600, copies=3) for seed in (1, 1, 2))
    assert first == again != other
    assert {fault.kind for fault in first} == set(KINDS)
