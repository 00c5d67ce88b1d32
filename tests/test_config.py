"""Arguments and the INI: what is understood, and what is refused with a line that names the key or argument."""

import datetime
import os
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import confluent_kafka
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import pkcs12
from harness.certificates import make_certificates
from harness.environment import ROOT, SCRIPT, missing, user_environment

import consumer

INI = """\
[kafka]
bootstrap.servers = 127.0.0.1:1
sasl.username = alice
sasl.password = secret-word
security.protocol = SASL_PLAINTEXT
sasl.mechanisms = SCRAM-SHA-512
"""


# What the client takes from a program: some of these ended in a traceback.
CALLBACKS = ["oauth_cb", "throttle_cb", "error_cb", "stats_cb", "on_commit", "logger", "default.topic.config"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The path of an INI that is private to its owner, with the content INI."""
    path = tmp_path / "config.ini"
    path.touch(0o600)
    path.write_text(INI)
    return path


def read(path: Path) -> dict[str, str]:
    """Return the settings of an INI."""
    return consumer.read_config(str(path))


def refused(capfd: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return the one line with which main() refuses its arguments or INI."""
    try:
        status = consumer.main(arguments)
    except SystemExit as end:  # argparse's
        status = end.code  # type: ignore[assignment]
    captured = capfd.readouterr()
    assert status == 2
    assert captured.out == ""
    assert "secret-word" not in captured.err
    line = captured.err.splitlines()[-1]
    assert "error: " in line
    return line


# ---- values --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "password", ["100%", "%(x)s", "a;b", "a # b", "a=b=", "'x'", '"x"', "a b  c", "ü€😀", "[x]", "#a"]
)
def test_a_value_is_literal(path: Path, password: str) -> None:
    path.write_text(INI.replace("secret-word", password), encoding="utf-8")
    assert read(path)["sasl.password"] == password


def test_byte_order_mark_and_crlf(path: Path) -> None:
    path.write_bytes(b"\xef\xbb\xbf" + INI.replace("\n", "\r\n").encode())
    assert read(path)["sasl.password"] == "secret-word"


def test_an_indented_key_is_a_key(path: Path) -> None:
    path.write_text(INI + "  client.id = me\n")
    assert read(path)["client.id"] == "me"
    assert read(path)["sasl.mechanisms"] == "SCRAM-SHA-512"


def test_keys_are_passed_through_as_written(path: Path) -> None:
    path.write_text(INI + "Some.Key = 1\n")
    assert read(path)["Some.Key"] == "1"


@pytest.mark.parametrize("line", ["", "group.id =\n"])
def test_group_left_out_or_empty(path: Path, line: str) -> None:
    path.write_text(INI + line)
    assert read(path)["group.id"] == "alice-group-1"


def test_what_the_script_chooses(path: Path) -> None:
    given = dict(line.split(" = ") for line in INI.splitlines()[1:])
    assert read(path) == {
        **given,
        "group.id": "alice-group-1",
        "auto.offset.reset": "latest",
        "enable.auto.commit": "true",
        "fetch.queue.backoff.ms": "10",
        "queued.max.messages.kbytes": "8192",
        "check.crcs": "true",
        "auto.commit.interval.ms": "1000",
        "socket.timeout.ms": "30000",
    }


def test_the_ini_overrides_what_the_script_chooses(path: Path) -> None:
    assert read(path)["fetch.queue.backoff.ms"] == "10"
    path.write_text(INI + "fetch.queue.backoff.ms = 77\n")
    assert read(path)["fetch.queue.backoff.ms"] == "77"


def test_paths_are_relative_to_the_ini(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_certificates(path.parent / "certs")
    path.write_text(INI + "ssl.ca.location = certs/server.cer.pem\nssl.key.location = ~/key.pem\n")
    (path.parent / "home").mkdir()
    (path.parent / "home" / "key.pem").touch()
    monkeypatch.setenv("HOME", str(path.parent / "home"))
    monkeypatch.chdir("/")
    settings = read(path)
    assert settings["ssl.ca.location"] == str(path.parent / "certs/server.cer.pem")
    assert settings["ssl.key.location"] == str(path.parent / "home/key.pem")


def test_probe_is_no_path(path: Path) -> None:
    path.write_text(INI + "ssl.ca.location = probe\n")
    assert read(path)["ssl.ca.location"] == "probe"


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
@pytest.mark.parametrize(
    ("mode", "warned"), [(0o644, True), (0o640, True), (0o604, True), (0o600, False), (0o400, False)]
)
def test_a_password_that_others_may_read(
    path: Path, capfd: pytest.CaptureFixture[str], mode: int, warned: bool
) -> None:
    path.chmod(mode)
    read(path)
    warning = f"warning: others may read the password in {path}: chmod 600 {path}\n"
    assert capfd.readouterr().err == warning * warned


# ---- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", ["[kafka]"]),
        ("[Kafka]\nbootstrap.servers = x\n", ["[kafka]"]),
        (INI + "[other]\n", ["the one line [kafka]"]),
        ("sasl.password = secret-word\n" + INI, ["line 1", "[kafka]"]),
        (INI + "sasl.password = secret-word\n", ["line 7", "each key once"]),
        (INI + "[kafka]\n", ["line 7", "[kafka]"]),
        (INI + "secret-word\n", ["line 7", "key = value"]),
        (INI + "sasl.password: secret-word\n", ["line 7", "key = value"]),
        (INI.replace("secret-word", "secret-word\n  continued"), ["line 5", "key = value"]),
        (INI + "= secret-word\n", ["line 7"]),
        (INI + "sasl.password secret-word==\n", ["key = value"]),
        (INI + "sasl.password: secret-word=\n", ["key = value"]),
        (INI + "[kafka\n", ["line 7"]),
        ("[]\n" + INI, ["line 1"]),
        (INI.replace("bootstrap.servers = 127.0.0.1:1", ""), ["bootstrap.servers"]),
        (INI.replace("127.0.0.1:1", ""), ["bootstrap.servers"]),
        (INI.replace("sasl.username = alice", ""), ["sasl.username"]),
        (INI.replace("sasl.username = alice", "group.id = x"), ["sasl.username"]),
        (INI.replace("sasl.password = secret-word", ""), ["sasl.password"]),
        (INI.replace("secret-word", ""), ["sasl.password"]),
        (INI.replace("secret-word", "YOUR_PASSWORD"), ["sasl.password", "example"]),
        (INI.replace("alice", "YOUR_USERNAME"), ["sasl.username", "example"]),
        (INI + "group.id = YOUR_USERNAME-group-2\n", ["group.id", "example"]),
        (INI + "no.such.key = 1\n", ["no.such.key"]),
        (INI + "session.timeout.ms = soon\n", ["session.timeout.ms"]),
        (INI + "session.timeout.ms = 99999999\n", ["session.timeout.ms"]),
        (INI.replace("SASL_PLAINTEXT", "SASL"), ["security.protocol"]),
        (INI.replace("SCRAM-SHA-512", "GSSAPI"), ["sasl.mechanisms", "GSSAPI"]),
        (INI.replace("SCRAM-SHA-512", "SCRAM-SHA512"), ["sasl.mechanisms", "SCRAM-SHA512"]),
        (INI.replace("127.0.0.1:1", '"127.0.0.1:1"'), ["bootstrap.servers", "quotes"]),
        (INI.replace("127.0.0.1:1", "'127.0.0.1:1'"), ["bootstrap.servers", "quotes"]),
        (INI + 'client.id = "my app"\n', ["client.id", "quotes"]),
        (INI.replace("secret-word", "secret\0word"), ["sasl.password", "NUL"]),
        (INI + "client.id\u200b = x\n", ["key = value", "invisible", "client.id"]),
        (INI + "\ufeffclient.id = x\n", ["key = value", "invisible"]),
        *((INI + f"{key} = x\n", [key]) for key in CALLBACKS),
        (INI + "ssl.ca.location = nowhere.pem\n", ["ssl.ca.location", "{directory}/nowhere.pem"]),
        (INI + "ssl.key.location = ~nobody-here/key.pem\n", ["ssl.key.location", "~nobody-here/key.pem"]),
    ],
)
def test_an_ini_is_refused(path: Path, capfd: pytest.CaptureFixture[str], content: str, words: list[str]) -> None:
    path.write_text(content)
    line = refused(capfd, "--topic", "t", "--config", str(path))
    for word in ["config.ini", *words]:
        assert word.format(directory=path.parent) in line


@pytest.mark.parametrize("wrong", ["auto.offset.rest = latest", "auto.offset.reset = latets", "check.crcs = 2"])
def test_a_wrong_name_or_value_is_no_matter_of_certificates(
    path: Path, capfd: pytest.CaptureFixture[str], wrong: str
) -> None:
    path.write_text(f"{INI}{wrong}\n")
    line = refused(capfd, "--topic", "t", "--config", str(path))
    assert line.startswith(f"error: {path}: a wrong name or value (")
    assert wrong.partition(" ")[0] in line
    assert "ssl." not in line


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("client.key.pem", "other/client.key.pem"), ["ssl.key.location", "ssl.certificate.location"]),
        (("ssl.certificate.location = client.cer.pem\n", ""), ["ssl.key.location", "ssl.certificate.location"]),
        (("client.cer.pem", "config.ini"), ["ssl.certificate.location"]),
        (("client.key.pem", "config.ini"), ["ssl.key.location"]),
        (("server.cer.pem", "config.ini"), ["ssl.ca.location"]),
        (("client.key.pem", "locked.key.pem"), ["ssl.key.password"]),
        (("client.key.pem", "locked.key.pem\nssl.key.password = wrong"), ["ssl.key.password"]),
        (("client.", "short/client."), ["long enough", "too small"]),
        (
            (
                "ssl.certificate.location = client.cer.pem\nssl.key.location = client.key.pem\n",
                "ssl.keystore.location = client.p12\nssl.keystore.password = wrong\n",
            ),
            ["ssl.keystore.password", "client.p12"],
        ),
    ],
    ids=[
        "key of another",
        "no certificate",
        "garbage certificate",
        "garbage key",
        "garbage authority",
        "no passphrase",
        "wrong passphrase",
        "1024 bits",
        "PKCS#12, wrong password",
    ],
)
def test_certificates_are_refused(
    path: Path, capfd: pytest.CaptureFixture[str], change: tuple[str, str], words: list[str]
) -> None:
    make_certificates(path.parent)
    make_certificates(path.parent / "other")
    make_certificates(path.parent / "short", client_bits=1024)
    locked = serialization.BestAvailableEncryption(b"passphrase")
    key: Any = serialization.load_pem_private_key((path.parent / "client.key.pem").read_bytes(), None)
    pkcs8 = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked)
    (path.parent / "locked.key.pem").write_bytes(pkcs8)
    certificate = x509.load_pem_x509_certificate((path.parent / "client.cer.pem").read_bytes())
    p12 = pkcs12.serialize_key_and_certificates(None, key, certificate, None, locked)
    (path.parent / "client.p12").write_bytes(p12)
    keys = (
        "ssl.ca.location = server.cer.pem\n"
        "ssl.certificate.location = client.cer.pem\n"
        "ssl.key.location = client.key.pem\n"
    )
    path.write_text(INI.replace("SASL_PLAINTEXT", "SASL_SSL") + keys.replace(*change))
    line = refused(capfd, "--topic", "t", "--config", str(path))
    for word in words:
        assert word in line


def test_a_missing_ini(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "config.ini"
    line = refused(capfd, "--topic", "t")
    assert line == f"error: {path} not found: copy the example (install -m 600 config.example.ini {path}) and edit it"


def test_a_path_that_is_not_utf8(capfd: pytest.CaptureFixture[str]) -> None:
    assert "\\udcff.ini not found" in refused(capfd, "--topic", "t", "--config", "\udcff.ini")


def test_an_ini_that_is_a_directory(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "Is a directory" in refused(capfd, "--topic", "t", "--config", str(tmp_path))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_ini_that_may_not_be_read(capfd: pytest.CaptureFixture[str], path: Path) -> None:
    path.chmod(0)
    assert "Permission denied" in refused(capfd, "--topic", "t", "--config", str(path))


def test_an_ini_that_is_not_utf8(capfd: pytest.CaptureFixture[str], path: Path) -> None:
    path.write_bytes(INI.encode() + b"client.id = \xff\n")
    assert "is not UTF-8" in refused(capfd, "--topic", "t", "--config", str(path))


@pytest.mark.parametrize("topic", ["", "^tron.*", "a b", "ü", ".", "..", "x" * 250, "a,b", "a\n"])
def test_an_illegal_topic_name(capfd: pytest.CaptureFixture[str], topic: str) -> None:
    assert "--topic" in refused(capfd, "--topic", topic)


def test_no_topic(capfd: pytest.CaptureFixture[str]) -> None:
    assert "--topic" in refused(capfd)


def test_no_arguments_show_an_example(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        consumer.main([])
    assert "\nusage: " in (text := "\n" + capfd.readouterr().err)
    assert "for example: python consumer.py --topic tron.transactions.proto\n" in text


def test_two_topics_are_refused(capfd: pytest.CaptureFixture[str]) -> None:
    assert "one topic" in refused(capfd, "--topic", "a", "--topic", "b")


def test_a_current_directory_that_is_gone(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    script = f"cd {tmp_path}/gone && rmdir {tmp_path}/gone && exec {sys.executable} {SCRIPT} --topic t"
    ended = subprocess.run(["bash", "-c", script], capture_output=True, encoding="utf-8", env=user_environment())
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: ")
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("number", ["0", "-1", "1.5", "many", ""])
def test_max_messages_that_is_no_number(capfd: pytest.CaptureFixture[str], number: str) -> None:
    assert "--max-messages" in refused(capfd, "--topic", "t", f"--max-messages={number}")


def test_the_header_for_uv_has_the_pins_of_requirements() -> None:
    """To raise a pin, edit both requirements.txt and the lines that begin with # at the top of consumer.py."""
    pins = (ROOT / "requirements.txt").read_text().split()
    dependencies = ", ".join(f'"{pin}"' for pin in pins)
    header = SCRIPT.read_text().split("# ///\n")[0]
    assert f"# dependencies = [{dependencies}]\n" in header
    assert '# requires-python = ">=3.10,<3.15"\n' in header


# ---- --from --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "utc"),
    [
        ("2026-01-02T03:04Z", "2026-01-02T03:04:00"),
        ("2026-01-02T03:04:05Z", "2026-01-02T03:04:05"),
        ("2026-01-02T03:04+02:00", "2026-01-02T01:04:00"),
        ("2026-01-02T03:04:05-05:30", "2026-01-02T08:34:05"),
        ("2026-01-02T03:04", "2026-01-02T08:04:00"),  # local time, five hours behind
        ("1969-01-02T03:04Z", "1970-01-01T00:00:00"),  # negative ones have a meaning of their own for Kafka
    ],
)
def test_a_time_to_start_from(monkeypatch: pytest.MonkeyPatch, text: str, utc: str) -> None:
    monkeypatch.setenv("TZ", "EST5")
    time.tzset()
    try:
        assert consumer.start_time(text) == datetime.datetime.fromisoformat(utc + "+00:00").timestamp() * 1000
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    ("text", "seconds"), [("30m", 1800), ("2h", 7200), ("1d", 86400), ("0m", 0), ("999999999d", None)]
)
def test_a_time_ago(text: str, seconds: int | None) -> None:
    expected = 0 if seconds is None else (time.time() - seconds) * 1000
    assert abs(consumer.start_time(text) - expected) < 1000


def test_beginning_and_end() -> None:
    assert consumer.start_time("beginning") == confluent_kafka.OFFSET_BEGINNING
    assert consumer.start_time("end") == confluent_kafka.OFFSET_END


@pytest.mark.parametrize(
    "text", ["", "start", "2", "2w", "-2h", "2026-11-23", "2026-13-01T00:00", "2026-11-23T10", "20:00", "1h30m", "٣h"]
)
def test_a_malformed_start(capfd: pytest.CaptureFixture[str], text: str) -> None:
    line = refused(capfd, "--topic", "t", f"--from={text}")
    for form in ("beginning", "end", "30m", "2h", "1d", "2026-11-23T10:00", "Z", "+02:00"):
        assert form in line


def test_a_start_in_the_future(capfd: pytest.CaptureFixture[str]) -> None:
    assert "future" in refused(capfd, "--topic", "t", "--from", "2999-01-01T00:00")


# ---- help, version, the example ------------------------------------------------------------------------------------


def test_version_tells_what_a_bug_report_needs(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        consumer.main(["--version"])
    assert end.value.code == 0
    said = capfd.readouterr().out
    for version in (consumer.__version__, confluent_kafka.__version__, confluent_kafka.libversion()[0]):
        assert str(version) in said


def test_git_ignores_secrets(tmp_path: Path) -> None:
    if not shutil.which("git"):
        missing("git is not installed")
    environment = user_environment(GIT_CONFIG_GLOBAL=os.devnull)  # what a user's own git ignores does not count

    def git(*arguments: str) -> str:
        command = ["git", *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout

    git("init", "-q")
    (tmp_path / ".gitignore").write_text((ROOT / ".gitignore").read_text())
    (tmp_path / "certs").mkdir()
    secrets = ["config.ini", "prod.ini", "config.ini.bak", "client.key.pem", "certs/client.key.pem", "certs/any.key"]
    for name in [*secrets, "certs/README.md", "config.example.ini", ".mypy.ini"]:
        (tmp_path / name).touch()
    git("add", "-A")
    assert git("ls-files").split() == [".gitignore", ".mypy.ini", "certs/README.md", "config.example.ini"]


def test_a_package_that_is_not_installed() -> None:
    ended = subprocess.run([sys.executable, "-I", "-S", str(SCRIPT), "--help"], capture_output=True, text=True)
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: No module named 'confluent_kafka': activate the virtual environment")
    assert "pip install -r requirements.txt" in ended.stderr
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["confluent_kafka.py", "confluent_kafka/__init__.py", "lz4.py", "lz4/__init__.py"])
def test_a_file_that_hides_a_package_is_named(tmp_path: Path, name: str) -> None:
    """As does a user's own program that has the package's name, beside the script."""
    shutil.copy(SCRIPT, tmp_path)
    hiding = tmp_path / name
    hiding.parent.mkdir(exist_ok=True)
    hiding.write_text("import sys\n")
    ended = subprocess.run(
        [sys.executable, str(tmp_path / "consumer.py"), "--help"],
        capture_output=True,
        text=True,
        env=user_environment(),
    )
    assert ended.returncode == 1
    assert ended.stderr.endswith(f": {hiding} hides the package: rename it\n")
    assert "pip" not in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_requirements_are_two_pinned_packages() -> None:
    names = [line.partition("==")[0] for line in (ROOT / "requirements.txt").read_text().split()]
    assert names == ["confluent-kafka", "lz4"]
    assert stat.S_ISREG((ROOT / "requirements.txt").stat().st_mode)
