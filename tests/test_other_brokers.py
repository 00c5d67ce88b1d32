"""What answers is no broker, or not the one that the INI describes: the line names every setting that may be wrong."""

import contextlib
import http.server
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.broker import QUICK_START, Broker
from harness.certificates import make_certificates, make_client
from harness.failure import check
from harness.process import Start
from harness.settings import NEW_PROTOCOL, Keys, settings

WITHIN = 15.0  # seconds: the ten that a broker has to answer, and what a loaded machine needs


@contextlib.contextmanager
def listener(hang_up: bool, reset: bool = False, tls: ssl.SSLContext | None = None) -> Iterator[int]:
    """Accept connections on a port, take TLS and hang up as asked for, by a reset or in peace; yield the port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        kept = []

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with contextlib.suppress(ssl.SSLError):
                        connection = tls.wrap_socket(connection, server_side=True) if tls else connection
                    if reset:
                        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    if hang_up:
                        connection.close()
                    kept.append(connection)

        threading.Thread(target=accept, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
    for connection in kept:
        connection.close()


@pytest.fixture(scope="module")
def odd(kafka: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker with TLS 1.2 and classic groups only, which advertises addresses that nobody can reach."""
    broker = Broker(tmp_path_factory.mktemp("odd"), QUICK_START, **{"ssl.enabled.protocols": "TLSv1.2"})
    broker.features = ["group.version=0"]
    broker.advertise(SASL_PLAINTEXT="kafka.invalid:29092")
    with broker:
        broker.create_topic("tron.odd")
        yield broker


@pytest.mark.parametrize("protocol", ["SASL_SSL", "SASL_PLAINTEXT"])
@pytest.mark.parametrize("reset", [False, True], ids=["closes", "resets"])
def test_a_balancer_that_hangs_up(broker: Broker, topic: str, start: Start, reset: bool, protocol: str) -> None:
    with listener(hang_up=True, reset=reset) as port:
        keys: Keys = {"bootstrap.servers": f"127.0.0.1:{port}", "security.protocol": protocol}
        run = start(settings(broker, keys), topic)
        check(run, 1, "no connection to", f"127.0.0.1:{port}", "bootstrap.servers", "security.protocol", within=WITHIN)


@pytest.mark.parametrize("tls", [False, True], ids=["HTTP", "HTTPS"])
@pytest.mark.parametrize("protocol", ["SASL_SSL", "SASL_PLAINTEXT", "PLAINTEXT"])
def test_a_web_server(broker: Broker, topic: str, start: Start, tls: bool, protocol: str) -> None:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as web:
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(broker.certificates / "server.pem")
            web.socket = context.wrap_socket(web.socket, server_side=True)
        threading.Thread(target=web.serve_forever, daemon=True).start()
        at = f"127.0.0.1:{web.server_address[1]}"
        keys: Keys = {"bootstrap.servers": at, "security.protocol": protocol}
        run = start(settings(broker, keys), topic, constants={"START_SECONDS": 4})
        check(run, 1, at, "security.protocol", within=WITHIN)
        web.shutdown()


@pytest.mark.parametrize("days", [(-10, -1), (1, 10)], ids=["expired", "not yet valid"])
def test_a_certificate_of_the_broker_out_of_its_time(
    broker: Broker, topic: str, start: Start, tmp_path: Path, days: tuple[int, int]
) -> None:
    make_certificates(tmp_path, days=days)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem")
    with listener(hang_up=False, tls=context) as port:
        keys: Keys = {"bootstrap.servers": f"127.0.0.1:{port}", "ssl.ca.location": str(tmp_path / "server.cer.pem")}
        run = start(settings(broker, keys), topic)
        check(run, 1, "TLS failed", "the dates in the certificates", "certificate verify failed")


@pytest.mark.parametrize("client", ["missing", "foreign", "expired"])
def test_a_client_certificate_that_tls_1_2_refuses(odd: Broker, start: Start, tmp_path: Path, client: str) -> None:
    """TLS 1.3 tells it after the handshake, with another code."""
    keys: dict[str, str | None] = {"ssl.certificate.location": None, "ssl.key.location": None}
    if client != "missing":
        make_certificates(tmp_path)
        if client == "expired":
            make_client(tmp_path, odd.certificates, days=(-10, -1))
        keys = {
            "ssl.certificate.location": str(tmp_path / "client.cer.pem"),
            "ssl.key.location": str(tmp_path / "client.key.pem"),
        }
    run = start(settings(odd, keys), "tron.odd")
    check(
        run, 1, "TLS failed", "ssl.certificate.location", "ssl.key.location", "the dates in the certificates", "alert"
    )


def test_tls_1_2_itself_is_no_trouble(odd: Broker, start: Start) -> None:
    odd.produce("tron.odd", [b"x"])
    run = start(settings(odd), "tron.odd", "--max-messages", "1")
    assert run.end() == 0, run.stderr


def test_a_broker_that_knows_only_classic_groups(odd: Broker, start: Start) -> None:
    run = start(settings(odd, NEW_PROTOCOL), "tron.odd")
    assert run.end() == 1
    assert "group.protocol" in run.stderr.splitlines()[-1]


def test_an_address_that_the_broker_advertises_and_nobody_can_reach(odd: Broker, start: Start) -> None:
    keys: Keys = {"bootstrap.servers": odd.address("SASL_PLAINTEXT"), "security.protocol": "SASL_PLAINTEXT"}
    run = start(settings(odd, keys), "tron.odd", constants={"LEADER_SECONDS": 5})
    check(run, 1, "an address that the broker advertises", "kafka.invalid:29092", within=WITHIN)
