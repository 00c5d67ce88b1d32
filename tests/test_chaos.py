"""The checker with random faults: seconds of it on the script as it is, and on one with a mistake."""

import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from chaos.faults import KINDS, SLOW, SLOW_DISK, STILL, schedule
from harness.environment import ROOT, SCRIPT, user_environment

MUTATIONS = ROOT / "tests" / "chaos" / "mutations"
SECONDS, SEED = 24, 134  # no fault of a node: its recovery would take longer than all else; see test_cluster.py


def check(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the checker; return its outcome."""
    command = [sys.executable, str(ROOT / "tests" / "chaos"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=user_environment(**env))


@pytest.mark.xdist_group("cluster")
@pytest.mark.timeout(300)
def test_faults_on_the_script_as_it_is(kafka: None) -> None:
    ended = check("--seconds", f"{SECONDS}", "--seed", f"{SEED}")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.endswith("every promise was kept\n")
    planned = [str(fault) for fault in schedule(SEED, SECONDS, copies=3)]
    assert [line for line in ended.stdout.splitlines() if " s  " in line][:-1] == planned


@pytest.mark.xdist_group("cluster")
@pytest.mark.timeout(300)
def test_a_mutation_is_found(kafka: None, tmp_path: Path) -> None:
    """How the others are found: tests/README.md."""
    shutil.copy(SCRIPT, tmp_path)
    subprocess.run(["git", "apply", MUTATIONS / "a-sync-after-the-store.patch"], cwd=tmp_path, check=True)
    script = tmp_path / SCRIPT.name
    ended = check("--seconds", "10", "--copies", "2", "--seed", "7", "--script", str(script), TMPDIR=str(tmp_path))
    assert ended.returncode == 1, ended.stdout + ended.stderr
    found = [line for line in ended.stdout.splitlines() if line.startswith("broken")]
    assert len(found) == 1, ended.stdout
    assert re.fullmatch(r"broken, 1 times: lost: \d+ messages, the first at \(\d+, \d+\)", found[0])


def test_a_checker_in_the_background_starts_copies_that_hear() -> None:
    """Or a copy that is sent SIGINT goes on: with nohup, or `&` in a script, programs are started that ignore it."""
    program = """if True:
        import signal, subprocess
        from harness.environment import let_programs_hear
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        let_programs_hear()
        print(*(subprocess.run(["sh", "-c", f"kill -{name} $$"]).returncode for name in ("INT", "HUP")))
    """
    command = [sys.executable, "-c", program]
    ended = subprocess.run(command, cwd=ROOT / "tests", capture_output=True, text=True, env=user_environment())
    assert (ended.stdout, ended.stderr) == (f"-{signal.SIGINT:d} -{signal.SIGHUP:d}\n", "")


@pytest.mark.parametrize("patch", sorted(MUTATIONS.iterdir()), ids=lambda path: path.stem)
def test_each_mutation_is_one_of_the_script_as_it_is(patch: Path) -> None:
    ended = subprocess.run(["git", "apply", "--check", str(patch)], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("seed", range(20))
def test_a_short_run_has_what_most_defects_need(seed: int) -> None:
    assert [fault.kind for fault in schedule(seed, 10, copies=3)] == [SLOW_DISK, STILL, SLOW]


def test_the_same_seed_draws_the_same_faults() -> None:
    """And with time each kind of fault."""
    first, again, other = (schedule(seed, 3600, copies=3) for seed in (1, 1, 2))
    assert first == again != other
    assert {fault.kind for fault in first} == set(KINDS)
