"""What a KafkaError becomes: the verdict follows its code, and the words of its text only choose the sentence."""

import pytest
from confluent_kafka import KafkaError

import consumer

AT = "sasl_ssl://one.example:9093/bootstrap: "
APACHE = "SASL authentication error: Authentication failed during authentication due to invalid credentials"
REDPANDA = "SASL authentication error: SASL authentication failed: security: Invalid credentials"
LOST_IN_LOGIN = "SASL SCRAM-SHA-512 mechanism handshake failed: Local: Broker transport failure: broker's supported "
RESET = "SSL handshake failed: Disconnected: connection reset by peer: connecting to a PLAINTEXT broker listener?"
DOWN = KafkaError(KafkaError._ALL_BROKERS_DOWN, "3/3 brokers are down")


@pytest.fixture
def errors() -> consumer.Errors:
    """The judge of a run that no broker has answered yet."""
    return consumer.Errors(consumer.Console(quiet=False), "tron.topic", "alice-group")


def judge(errors: consumer.Errors, *reports: KafkaError, waited: float = 0.0) -> str:
    """Return the sentence with which these reports end the start of a run, nothing where it goes on."""
    for report in reports:
        errors.error_cb(report)
    try:
        errors.raise_failure()
        errors.check_start(waited, "one.example:9093")
    except consumer.Failure as failure:
        return str(failure)
    return ""


@pytest.mark.parametrize("words", [APACHE, REDPANDA, "whatever a broker may say"])
def test_a_login_is_refused_in_whatever_words(errors: consumer.Errors, words: str) -> None:
    refused = KafkaError(KafkaError._AUTHENTICATION, f"{AT}{words} (after 300ms in state AUTH_REQ)")
    sentence = judge(errors, refused, DOWN)
    assert sentence == (f"the login was refused: check sasl.username and sasl.password (one.example:9093: {words})")


@pytest.mark.parametrize(
    ("code", "words", "sentence"),
    [
        (KafkaError._SSL, "SSL handshake failed: certificate verify failed: x", "the broker's certificate is not"),
        (KafkaError._SSL, "SSL handshake failed: no shared cipher", "the broker offers no TLS that fits"),
        (KafkaError._TRANSPORT, "Receive failed: SSL alert number 116", "the client certificate was refused"),
        (KafkaError._TRANSPORT, RESET, "no TLS on this port"),
        (KafkaError._TRANSPORT, "Send failed: Broken pipe", "the broker closed the connection"),
        (
            KafkaError._AUTHENTICATION,
            "SASL SCRAM-SHA-512 mechanism handshake failed: Broker: Request not valid in current SASL state",
            "this port takes no login",
        ),
        (
            KafkaError._AUTHENTICATION,
            "SASL PLAIN mechanism handshake failed: Broker: Unsupported SASL mechanism",
            "the broker does not offer this kind of login",
        ),
    ],
)
def test_a_reason_is_final_only_once_every_address_has_failed(
    errors: consumer.Errors, code: int, words: str, sentence: str
) -> None:
    assert judge(errors, KafkaError(code, AT + words), waited=consumer.START_SECONDS) == ""
    assert judge(errors, DOWN).startswith(sentence)


def test_a_connection_that_is_lost_in_the_middle_of_a_login_is_no_refusal(errors: consumer.Errors) -> None:
    lost = KafkaError(KafkaError._AUTHENTICATION, AT + LOST_IN_LOGIN)
    assert judge(errors, lost, DOWN) == ""
    assert judge(errors, waited=consumer.DOWN_SECONDS + 1).startswith("no broker answers")


def test_where_no_address_gives_a_reason_the_connection_was_closed(errors: consumer.Errors) -> None:
    assert judge(errors, DOWN).startswith("the broker closed the connection: check security.protocol")


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        (KafkaError.UNKNOWN_TOPIC_OR_PART, "there is no topic tron.topic: check --topic"),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, "this user may not read topic tron.topic: check --topic"),
        (KafkaError.GROUP_AUTHORIZATION_FAILED, "this user may not use group alice-group: group.id must begin"),
        (KafkaError.INVALID_SESSION_TIMEOUT, "the broker does not allow this session.timeout.ms"),
        (KafkaError._AUTO_OFFSET_RESET, "auto.offset.reset = error"),
        (KafkaError._FATAL, "some text"),
    ],
)
@pytest.mark.parametrize("connected", [False, True], ids=["start", "later"])
def test_what_the_cluster_says_of_topic_and_group_is_final_whenever_it_comes(
    errors: consumer.Errors, code: int, sentence: str, connected: bool
) -> None:
    errors.connected = connected
    errors.error_cb(KafkaError(code, "some text"))
    with pytest.raises(consumer.Failure, match=sentence):
        errors.raise_failure()


@pytest.mark.parametrize("words", [RESET, "Connect to ipv4#127.0.0.1:9093 failed: Connection refused"])
def test_what_has_worked_once_is_a_lost_connection(
    errors: consumer.Errors, capfd: pytest.CaptureFixture[str], words: str
) -> None:
    errors.connected = True
    for report in (KafkaError(KafkaError._TRANSPORT, AT + words), DOWN):
        errors.error_cb(report)
        errors.raise_failure()
    reason = words.removesuffix(": connecting to a PLAINTEXT broker listener?")
    said = capfd.readouterr().err
    assert said == f"warning: lost connection: one.example:9093: {reason}; trying again until it works\n"


@pytest.mark.parametrize("words", [APACHE, REDPANDA])
def test_a_login_that_is_refused_for_long_is_refused_for_good(
    errors: consumer.Errors, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    clock = [1000.0]
    monkeypatch.setattr(consumer.time, "monotonic", lambda: clock[0])
    errors.connected = True
    refused = KafkaError(KafkaError._AUTHENTICATION, AT + words)
    for clock[0] in (1000.0, 1000.0 + consumer.REFUSED_SECONDS):
        errors.error_cb(refused)
        errors.raise_failure()
    clock[0] += 1
    errors.error_cb(refused)
    with pytest.raises(consumer.Failure, match="the login was refused"):
        errors.raise_failure()
    assert capfd.readouterr().err.count("warning: ") == 1
