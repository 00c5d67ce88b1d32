"""What a KafkaError becomes: its code decides, a sentence names every setting, the library's own words follow."""

import argparse

import pytest
from confluent_kafka import KafkaError

import consumer

AT = "sasl_ssl://one.example:9093/bootstrap: "
REFUSED = KafkaError(
    KafkaError._AUTHENTICATION, f"{AT}SASL authentication error: whatever (after 300ms in state AUTH_REQ)"
)
TLS = KafkaError(
    KafkaError._SSL, f"{AT}SSL handshake failed: certificate verify failed (after 5ms in state SSL_HANDSHAKE)"
)
GONE = KafkaError(KafkaError._TRANSPORT, f"{AT}Connect to ipv4#127.0.0.1:9093 failed: Connection refused")
OTHER = KafkaError(KafkaError._FAIL, "whatever")
DOWN = KafkaError(KafkaError._ALL_BROKERS_DOWN, "3/3 brokers are down")
CUT = KafkaError(
    KafkaError._AUTHENTICATION,
    f"{AT}SASL SCRAM-SHA-512 mechanism handshake failed: Local: Broker transport failure: broker's supported ",
)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which only the test lets pass."""
    clock = [1000.0]
    monkeypatch.setattr(consumer.time, "monotonic", lambda: clock[0])
    return clock


@pytest.fixture
def errors() -> consumer.Errors:
    """The judge of a run that no broker has answered yet."""
    config = {**consumer.DEFAULTS, "group.id": "alice-group", "bootstrap.servers": "one.example:9093,two.example:9093"}
    return consumer.Errors(config, argparse.Namespace(topic="tron.topic", config="my.ini", quiet=False))


@pytest.fixture
def running(errors: consumer.Errors) -> consumer.Errors:
    """The judge of a run that a broker has answered."""
    errors.answered = True
    return errors


@pytest.mark.parametrize(
    ("code", "named"),
    [
        (
            KafkaError._TRANSPORT,
            "one.example:9093,two.example:9093 bootstrap.servers security.protocol ssl.key.location",
        ),
        (KafkaError._ALL_BROKERS_DOWN, "one.example:9093,two.example:9093 bootstrap.servers security.protocol"),
        (KafkaError._RESOLVE, "bootstrap.servers"),
        (KafkaError._TIMED_OUT_QUEUE, "bootstrap.servers"),  # a login to a broker that has just died
        (KafkaError._AUTHENTICATION, "sasl.username sasl.password sasl.* security.protocol"),
        (
            KafkaError._SSL,
            "ssl.ca.location ssl.endpoint.identification.algorithm ssl.certificate.location ssl.key.location dates "
            "security.protocol",
        ),
        (
            KafkaError._INVALID_ARG,
            "my.ini ssl.key.location ssl.certificate.location ssl.key.password ssl.keystore.password sasl.mechanisms",
        ),
        (KafkaError._BAD_MSG, "--from receive.message.max.bytes"),
        (KafkaError._BAD_COMPRESSION, "--from"),
        (KafkaError._MAX_POLL_EXCEEDED, "output asleep max.poll.interval.ms"),
        (KafkaError._FATAL, "group.id group.instance.id group.protocol"),
        (KafkaError._AUTO_OFFSET_RESET, "auto.offset.reset"),
        (KafkaError.UNKNOWN_TOPIC_OR_PART, "tron.topic --topic"),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, "tron.topic --topic sasl.username"),
        (KafkaError.GROUP_AUTHORIZATION_FAILED, "alice-group group.id"),
        (KafkaError.INVALID_SESSION_TIMEOUT, "session.timeout.ms"),
    ],
)
def test_a_sentence_names_every_setting_and_the_words_follow(errors: consumer.Errors, code: int, named: str) -> None:
    sentence = errors.sentence(KafkaError(code, f"{AT}some words (after 3ms in state CONNECT)"))
    assert sentence.endswith(" (one.example:9093: some words)")
    for setting in named.split():
        assert setting in sentence


def test_every_code_that_the_script_names_is_one_of_the_library() -> None:
    own = {"UNREACHABLE", "LOST", "COORDINATOR", "PROPERTY"}
    codes = consumer.CONNECTION_ERRORS | consumer.COORDINATOR_ERRORS | consumer.AUTH_ERRORS | consumer.ENDS_RUN
    for name in (consumer.HINTS.keys() | codes) - own:
        assert isinstance(getattr(KafkaError, name), int)


def test_a_code_without_a_sentence_has_the_words_of_the_library(errors: consumer.Errors) -> None:
    assert errors.sentence(KafkaError(KafkaError._FAIL, "whatever")) == "whatever"


# ---- the start -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("refusal", [REFUSED, TLS], ids=["login", "TLS"])
def test_a_refusal_ends_the_start_only_once_every_address_has_failed(
    errors: consumer.Errors, capfd: pytest.CaptureFixture[str], refusal: KafkaError
) -> None:
    errors.error_cb(GONE)
    errors.error_cb(refusal)
    assert errors.final is None
    assert errors.retry_seconds() == consumer.START_SECONDS
    errors.error_cb(DOWN)
    assert errors.retry_seconds() == 0
    assert errors.reason == errors.sentence(refusal)  # which tells more than what came first
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("trouble", [GONE, CUT], ids=["out of reach", "lost in the middle of a login"])
def test_what_may_be_a_second_address_has_a_few_seconds(errors: consumer.Errors, trouble: KafkaError) -> None:
    for error in (trouble, DOWN):
        errors.error_cb(error)
    assert errors.retry_seconds() == consumer.DOWN_SECONDS
    assert errors.reason.startswith("no connection to one.example:9093,two.example:9093")


# ---- later ---------------------------------------------------------------------------------------------------------


def said(capfd: pytest.CaptureFixture[str]) -> list[str]:
    """Return the lines of standard error since the last time."""
    return capfd.readouterr().err.splitlines()


def test_each_kind_is_warned_of_once_a_minute_by_itself(
    running: consumer.Errors, clock: list[float], capfd: pytest.CaptureFixture[str]
) -> None:
    for error in (TLS, OTHER, TLS, OTHER):
        running.error_cb(error)
    running.warn("commit", "what was printed may be printed again: offsets were not committed (no coordinator)")
    running.warn("commit", "what was printed may be printed again: offsets were not committed (timed out)")
    lines = said(capfd)
    assert [line.split()[1] for line in lines] == ["TLS", "whatever", "what"]
    clock[0] += consumer.QUIET_SECONDS - 1
    running.error_cb(TLS)
    assert said(capfd) == []
    clock[0] += 1
    running.error_cb(TLS)
    assert said(capfd) == lines[:1]


@pytest.mark.parametrize("error", [GONE, DOWN, CUT], ids=["out of reach", "all down", "lost in the middle of a login"])
def test_a_lost_connection_is_believed_only_after_a_look(
    running: consumer.Errors, clock: list[float], capfd: pytest.CaptureFixture[str], error: KafkaError
) -> None:
    """`localhost` is two addresses, of which one may not answer; nobody is told of that."""
    running.error_cb(error)
    assert said(capfd) == []
    assert running.doubt is not None
    assert running.doubt[0] == clock[0]
    assert running.doubt[1].startswith("lost connection, or an address that the broker advertises")
    assert not running.refused_for_good()


@pytest.mark.parametrize("refusal", [REFUSED, TLS], ids=["login", "TLS"])
def test_a_refusal_that_lasts_for_thirty_seconds_ends_the_run(
    running: consumer.Errors, clock: list[float], refusal: KafkaError
) -> None:
    assert consumer.REFUSED_SECONDS == 30
    for passed in (0, 29):
        clock[0] = 1000.0 + passed
        running.error_cb(refusal)
        assert not running.refused_for_good()
    clock[0] += 1
    running.error_cb(refusal)
    running.error_cb(DOWN)  # which librdkafka adds
    assert running.refused_for_good()
    assert running.reason == running.sentence(refusal)


def test_two_refusals_an_hour_apart_on_a_quiet_topic_are_not_one_that_lasts(
    running: consumer.Errors, clock: list[float]
) -> None:
    for _ in range(3):
        running.error_cb(REFUSED)
        assert not running.refused_for_good()
        clock[0] += 3600


def test_an_answer_between_two_refusals_tells_that_it_passed(running: consumer.Errors, clock: list[float]) -> None:
    running.error_cb(REFUSED)
    running.forget_refusals()
    clock[0] += 40
    running.error_cb(REFUSED)
    assert not running.refused_for_good()


@pytest.mark.parametrize("code", sorted(consumer.ENDS_RUN))
@pytest.mark.parametrize("answered", [False, True], ids=["start", "later"])
def test_what_does_not_pass_ends_the_run_whenever_it_comes(errors: consumer.Errors, code: str, answered: bool) -> None:
    errors.answered = answered
    error = KafkaError(getattr(KafkaError, code), "some text")
    errors.error_cb(error)
    assert str(errors.final) == errors.sentence(error)


def test_an_unknown_topic_is_only_a_claim(running: consumer.Errors, capfd: pytest.CaptureFixture[str]) -> None:
    running.error_cb(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART))
    assert running.denied
    assert running.final is None
    assert said(capfd) == []


@pytest.mark.parametrize(
    ("code", "told"),
    [(KafkaError.OFFSET_OUT_OF_RANGE, True), (KafkaError._LOG_TRUNCATION, True), (KafkaError._TRANSPORT, False)],
)
def test_a_reset_is_told_unless_it_only_asks_again(
    running: consumer.Errors, capfd: pytest.CaptureFixture[str], code: int, told: bool
) -> None:
    """The client library says neither of them to error_cb."""
    reset = (
        "tron.topic [0]: offset reset (at offset 10 (leader epoch 7), broker 1) to offset BEGINNING (leader epoch -1)"
    )
    running.log(4, "%s", f"[thrd:main]: {reset}: whatever: {KafkaError(code).str()}")
    assert capfd.readouterr().err.startswith("warning: messages were deleted") == told
