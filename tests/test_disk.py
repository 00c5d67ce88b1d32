"""A line counts when it is on the disk: power cuts, and disks that are slow, full or broken."""

import signal
import time
from pathlib import Path

import pytest
from harness.broker import Broker
from harness.process import Start, parse, seconds_at_most, with_client
from harness.settings import PROTOCOLS, Keys, settings
from harness.words import ASSIGNED


def syncing(how: str) -> list[str]:
    """Return a command that runs the script where `how` is what a sync does."""
    return with_client(f"""
            really = os.fdatasync
            def fdatasync(descriptor, really=really):
                {how}
            os.fdatasync = fdatasync""")


def logging(log: Path) -> list[str]:
    """Return a command that runs the script, and notes how much of the file is on the disk."""
    return syncing(f"""size = os.fstat(descriptor).st_size
                really(descriptor)
                with open({str(log)!r}, "w") as log:
                    log.write(str(size))""")


@PROTOCOLS
def test_what_a_power_cut_takes_is_not_committed(
    broker: Broker, topic: str, start: Start, tmp_path: Path, protocol: Keys
) -> None:
    """The file is cut off where it was last synced: what is not in it must be to come."""
    log = tmp_path / "synced"
    keys = settings(broker, protocol)
    run = start(keys, topic, command=logging(log))
    run.wait_for_words(ASSIGNED)
    for number in range(40):
        broker.produce(topic, [b"%d" % number] * 100)
        time.sleep(0.1)
    run.kill()
    size = int(log.read_text())
    on_disk = parse(run.stdout[:size])
    committed = max(0, broker.committed(keys["group.id"], topic)[0])
    assert 0 < committed <= len(on_disk)
    assert [line["offset"] for line in on_disk] == list(range(len(on_disk)))
    rest = start(keys, topic, "--exit-at-end")
    assert rest.end() == 0
    printed = {line["offset"] for line in [*on_disk, *rest.lines]}
    assert printed == set(range(4000))


def test_a_stop_syncs_and_prints_nothing_twice(broker: Broker, topic: str, start: Start, tmp_path: Path) -> None:
    log = tmp_path / "synced"
    keys = settings(broker)
    broker.produce(topic, [b"x"] * 500)
    run = start(keys, topic, command=logging(log))
    run.wait_for_lines(500)
    assert run.stop(signal.SIGTERM) == 0
    assert int(log.read_text()) == len(run.stdout)
    assert broker.committed(keys["group.id"], topic) == [500]


def test_what_is_on_the_disk_is_not_synced_again(broker: Broker, topic: str, start: Start, tmp_path: Path) -> None:
    syncs = tmp_path / "syncs"
    broker.produce(topic, [b"x"] * 5)
    counting = syncing(f"""really(descriptor)
                with open({str(syncs)!r}, "a") as log:
                    log.write("sync\\n")""")
    run = start(settings(broker), topic, command=counting)
    run.wait_for_lines(5)
    time.sleep(4)
    assert run.stop() == 0
    assert syncs.read_text().count("sync") == 1


def test_a_handover_between_members_prints_nothing_twice(broker: Broker, topic3: str, start: Start) -> None:
    keys = settings(broker)
    first = start(keys, topic3)
    first.wait_for_words(ASSIGNED)
    broker.produce(topic3, [b"x"] * 300)
    first.wait_for_lines(1)
    second = start(keys, topic3)
    second.wait_for_words(ASSIGNED)
    broker.produce(topic3, [b"x"] * 300)
    first.wait_for(lambda _: first.count_lines() + second.count_lines() >= 600)
    assert [first.stop(), second.stop()] == [0, 0]
    assert len(first.lines) + len(second.lines) == 600


def test_a_sync_that_fails_ends_the_run_and_commits_nothing(broker: Broker, topic: str, start: Start) -> None:
    keys = settings(broker)
    broker.produce(topic, [b"x"] * 100)
    run = start(keys, topic, command=syncing('raise OSError(122, "Disk quota exceeded")'))
    assert run.end() == 1
    assert run.stderr.count("error: ") == 1
    assert "error: standard output: Disk quota exceeded" in run.stderr
    assert broker.committed(keys["group.id"], topic) == [-1001]


def test_a_sync_that_fails_in_a_rebalance_ends_the_run(broker: Broker, topic3: str, start: Start) -> None:
    keys = settings(broker)
    failing = syncing('raise OSError(5, "Input/output error")')
    run = start(keys, topic3, command=failing)
    run.wait_for_words(ASSIGNED)
    other = start(keys, topic3)
    broker.produce(topic3, [b"x"] * 3)
    assert run.end() == 1
    assert "error: standard output: Input/output error" in run.stderr
    other.wait_for_lines(3)
    assert other.stop() == 0


def test_a_file_that_cannot_be_synced_counts_as_a_pipe(broker: Broker, topic: str, start: Start) -> None:
    keys = settings(broker)
    broker.produce(topic, [b"x"] * 100)
    run = start(keys, topic, command=syncing('raise OSError(22, "Invalid argument")'))
    broker.wait_until_committed(keys["group.id"], topic, 1)
    assert run.stop() == 0
    assert run.stderr.count("error") == 0


def test_a_slow_disk_slows_nothing_but_itself(broker: Broker, topic: str, start: Start) -> None:
    keys = settings(broker)
    run = start(keys, topic, command=syncing("time.sleep(0.7); really(descriptor)"))
    run.wait_for_words(ASSIGNED)
    for _ in range(30):
        broker.produce(topic, [b"x"] * 100)
        time.sleep(0.1)
    run.wait_for_lines(3000, 3)
    assert run.stop(signal.SIGTERM) == 0
    assert broker.committed(keys["group.id"], topic) == [3000]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_disk_that_does_not_answer_does_not_hold_up_the_stop(
    broker: Broker, topic: str, start: Start, tmp_path: Path, how: signal.Signals
) -> None:
    keys = settings(broker)
    broker.produce(topic, [b"x"] * 100)
    syncs = tmp_path / "syncs"
    run = start(keys, topic, command=syncing(f"open({str(syncs)!r}, 'w').close(); time.sleep(60)"))
    run.wait_for_lines(100)
    run.wait_for(lambda _: syncs.exists())
    with seconds_at_most(8):
        assert run.stop(how) == 1
    assert "error: the disk does not answer: what was printed last will be printed again" in run.stderr
    assert broker.committed(keys["group.id"], topic) == [-1001]
