"""What is wrong at the start is said in one line that names the key or argument at fault, and soon."""

import socket
import time
from pathlib import Path

import pytest
from harness.broker import USER, Broker, free_port
from harness.certificates import make_certificates
from harness.cluster import Cluster
from harness.failure import PROMPT, check, secrets_in
from harness.process import Start, seconds_at_most
from harness.proxy import Proxy
from harness.settings import PROTOCOLS, Keys, settings


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"sasl.password": "wrong"}, ["login failed", "sasl.username", "sasl.password"]),
        ({"sasl.username": USER + "x"}, ["login failed", "sasl.username", "sasl.password"]),
        ({"sasl.mechanisms": "SCRAM-SHA-256"}, ["login failed", "sasl.*", "SCRAM-SHA-512"]),
        ({"sasl.mechanisms": "PLAIN"}, ["login failed", "sasl.*", "SCRAM-SHA-512"]),
        ({"ssl.ca.location": "{other}/server.cer.pem"}, ["TLS failed", "ssl.ca.location"]),
        ({"ssl.ca.location": None}, ["TLS failed", "ssl.ca.location"]),
        ({"ssl.endpoint.identification.algorithm": None}, ["TLS failed", "ssl.endpoint.identification.algorithm"]),
        ({"ssl.endpoint.identification.algorithm": "https"}, ["TLS failed", "ssl.endpoint.identification.algorithm"]),
        (
            {"ssl.certificate.location": None, "ssl.key.location": None},
            ["ssl.certificate.location", "ssl.key.location"],
        ),
        (
            {"ssl.certificate.location": "{other}/client.cer.pem", "ssl.key.location": "{other}/client.key.pem"},
            ["ssl.certificate.location", "ssl.key.location"],
        ),
        ({"ssl.key.location": None}, ["ssl.certificate.location", "ssl.key.location"]),
        ({"bootstrap.servers": "127.0.0.1:{SASL_PLAINTEXT}"}, ["security.protocol", "127.0.0.1:{SASL_PLAINTEXT}"]),
        ({"bootstrap.servers": "127.0.0.1:{PLAINTEXT}"}, ["security.protocol"]),
        ({"security.protocol": "SASL_PLAINTEXT"}, ["security.protocol", "127.0.0.1:{SASL_SSL}"]),
        ({"security.protocol": "PLAINTEXT"}, ["security.protocol"]),
        ({"security.protocol": None}, ["security.protocol"]),
        ({"security.protocol": "PLAINTEXT", "bootstrap.servers": "127.0.0.1:{SASL_PLAINTEXT}"}, ["security.protocol"]),
        ({"security.protocol": "SASL_PLAINTEXT", "bootstrap.servers": "127.0.0.1:{PLAINTEXT}"}, ["security.protocol"]),
        ({"bootstrap.servers": "https://127.0.0.1:{SASL_SSL}"}, ["https://127.0.0.1:{SASL_SSL}", "bootstrap.servers"]),
        ({"bootstrap.servers": "kafka+ssl://127.0.0.1:{SASL_SSL}"}, ["kafka+ssl://", "bootstrap.servers"]),
        ({"bootstrap.servers": "PLAINTEXT://127.0.0.1:{SASL_SSL}"}, ["PLAINTEXT://", "security.protocol"]),
    ],
    ids=lambda value: " ".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else "",
)
def test_connection(
    broker: Broker, topic: str, start: Start, tmp_path: Path, overrides: Keys, words: list[str]
) -> None:
    if "{other}" in str(overrides):
        make_certificates(tmp_path / "other")

    def fill(text: str) -> str:
        return text.format(other=tmp_path / "other", **broker.ports)

    filled = {key: None if value is None else fill(value) for key, value in overrides.items()}
    check(start(settings(broker, filled), topic), 1, *map(fill, words))


def test_a_token_endpoint_that_is_down(broker: Broker, topic: str, start: Start) -> None:
    keys: Keys = {
        "sasl.mechanisms": "OAUTHBEARER",
        "sasl.oauthbearer.method": "oidc",
        "sasl.oauthbearer.client.id": "a",
        "sasl.oauthbearer.client.secret": "b",
        "sasl.oauthbearer.token.endpoint.url": "https://127.0.0.1:1/token",
    }
    check(start(settings(broker, keys), topic), 1, "login failed", "sasl.*", "127.0.0.1:1", within=15)


@pytest.mark.xdist_group("cluster")
def test_a_certificate_that_names_its_host_needs_no_exception(cluster: Cluster, start: Start) -> None:
    topic = cluster.create_topic("tron.named")
    cluster.produce(topic, [b"x"])
    for algorithm in (None, "https"):
        keys = settings(cluster, {"ssl.endpoint.identification.algorithm": algorithm})
        run = start(keys, topic, "--max-messages", "1")
        assert run.end() == 0, run.stderr
        assert len(run.lines) == 1
        other = keys["bootstrap.servers"].replace("127.0.0.1", "localhost")
        run = start({**keys, "bootstrap.servers": other}, topic)
        check(run, 1, "ssl.endpoint.identification.algorithm", "localhost", within=15)


@pytest.mark.quiet
def test_a_wrong_password_is_said_within_a_second(broker: Broker, topic: str, start: Start) -> None:
    run = start(settings(broker, {"sasl.password": "wrong"}), topic)
    check(run, 1, "sasl.password", within=1.5)  # half a second for Python and the imports


def test_every_broker_that_refuses_the_connection_is_named(broker: Broker, topic: str, start: Start) -> None:
    servers = [f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"]
    run = start(settings(broker, {"bootstrap.servers": ",".join(servers)}), topic)
    check(run, 1, "bootstrap.servers", *servers, "Connection refused", within=15)


def test_every_host_that_is_unknown_is_named(broker: Broker, topic: str, start: Start) -> None:
    run = start(settings(broker, {"bootstrap.servers": "one.invalid:9093,two.invalid:9093"}), topic)
    check(run, 1, "bootstrap.servers", "one.invalid:9093", "two.invalid:9093", "resolve", within=15)


def test_a_broker_that_never_answers_is_named(broker: Broker, topic: str, start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        server = f"127.0.0.1:{silent.getsockname()[1]}"
        check(start(settings(broker, {"bootstrap.servers": server}), topic), 1, "bootstrap.servers", server, within=15)


@pytest.mark.parametrize("sick", ["SASL_PLAINTEXT", "PLAINTEXT", "closed", "silent"])
def test_one_healthy_broker_of_three_is_enough(broker: Broker, topic: str, start: Start, sick: str) -> None:
    """Whichever is asked first: each start has a random order of its own."""
    broker.produce(topic, [b"here"])
    with socket.create_server(("127.0.0.1", 0)) as silent:
        ports = {**broker.ports, "closed": free_port(), "silent": silent.getsockname()[1]}
        addresses = [f"127.0.0.1:{ports[sick]}", broker.address(), f"localhost:{ports[sick]}"]
        keys = {"bootstrap.servers": ",".join(addresses)}
        runs = [start(settings(broker, keys), topic, "--max-messages", "1") for _ in range(4)]
        for run in runs:
            assert run.end() == 0, run.stderr
            assert run.stdout.count("\n") == 1


@pytest.mark.parametrize("answers", [1, 2], ids=["versions", "versions and mechanism"])
def test_a_connection_lost_in_the_middle_of_a_login_is_no_refusal(
    broker: Broker, topic: str, start: Start, answers: int
) -> None:
    keys: Keys = {"security.protocol": "SASL_PLAINTEXT"}
    with Proxy(broker.ports["SASL_PLAINTEXT"], answers=answers) as proxy:
        run = start(settings(broker, {**keys, "bootstrap.servers": f"127.0.0.1:{proxy.port}"}), topic)
        check(run, 1, "no connection", f"127.0.0.1:{proxy.port}", "SASL", within=15)


def test_a_slow_link_is_no_error(broker: Broker, topic: str, start: Start) -> None:
    """Half a second for each round trip, through a proxy: it takes a while, and works."""
    broker.produce(topic, [b"x"])
    with Proxy(broker.ports["SASL_SSL"], seconds=0.5) as proxy:
        run = start(settings(broker, {"bootstrap.servers": f"127.0.0.1:{proxy.port}"}), topic)
        run.wait_for_lines(1)
        assert run.stop() == 0


def test_unknown_topic(broker: Broker, start: Start) -> None:
    check(start(settings(broker), "tron.nowhere"), 1, "--topic", "tron.nowhere")


def test_topic_of_others(broker: Broker, start: Start) -> None:
    broker.create_topic("secret.topic")
    check(start(settings(broker), "secret.topic"), 1, "--topic", "secret.topic", "may not read")


@PROTOCOLS
def test_group_of_others(broker: Broker, topic: str, start: Start, protocol: Keys) -> None:
    run = start(settings(broker, {"group.id": "somebody-else", **protocol}), topic)
    with seconds_at_most(PROMPT):
        assert run.end() == 1
    assert "it begins with the username" in run.stderr
    assert "somebody-else" in run.stderr
    assert "Traceback" not in run.stderr


def test_session_timeout_beyond_what_the_broker_allows(broker: Broker, topic: str, start: Start) -> None:
    run = start(settings(broker, {"session.timeout.ms": "500", "heartbeat.interval.ms": "100"}), topic)
    assert run.end() == 1
    assert "session.timeout.ms" in run.stderr


def test_ctrl_c_while_the_broker_does_not_answer(broker: Broker, topic: str, start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(30)
        run = start(settings(broker, {"bootstrap.servers": f"127.0.0.1:{server.getsockname()[1]}"}), topic)
        with server.accept()[0]:  # it has come so far
            time.sleep(0.5)  # the client library connects in its own thread, while the script has yet to listen
            with seconds_at_most(PROMPT):
                assert run.stop() == 0
    assert run.stderr == ""


def test_ctrl_c_after_a_long_wait_for_an_answer(broker: Broker, topic: str, start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        run = start(settings(broker, {"bootstrap.servers": f"127.0.0.1:{silent.getsockname()[1]}"}), topic)
        time.sleep(7)
        with seconds_at_most(PROMPT):
            assert run.stop() == 0
    assert run.stderr == ""


def test_debug_does_not_show_the_password(broker: Broker, topic: str, start: Start) -> None:
    broker.produce(topic, [b"x"])
    run = start(settings(broker, {"debug": "all"}), topic, "--max-messages", "1")
    assert run.end() == 0
    assert "SASL" in run.stderr  # the debug lines are there
    assert secrets_in(run.stderr) == []
    assert run.lines == [{"partition": 0, "offset": 0, "value": "x"}]
