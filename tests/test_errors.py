"""What a KafkaError becomes: its code decides, a sentence names every setting, the library's own words follow."""

import argparse
import json
import re
import time

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
    config = {"group.id": "alice-group", "bootstrap.servers": "one.example:9093,two.example:9093"}
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
    for name in [*consumer.HINTS, *consumer.CONNECTION]:
        assert name == "CONNECTION" or isinstance(getattr(KafkaError, name), int)


def test_a_code_without_a_sentence_has_the_words_of_the_library(errors: consumer.Errors) -> None:
    assert errors.sentence(KafkaError(KafkaError._FAIL, "whatever")) == "whatever"


# ---- the start -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("refusal", [REFUSED, TLS], ids=["login", "TLS"])
def test_a_refusal_ends_the_start_only_once_every_address_has_failed(
    errors: consumer.Errors, capfd: pytest.CaptureFixture[str], refusal: KafkaError
) -> None:
    errors.error_cb(GONE)
    errors.error_cb(refusal)
    assert errors.failure is None
    assert errors.limit == consumer.START_SECONDS
    errors.error_cb(DOWN)
    assert errors.limit == 0
    assert errors.trouble == errors.sentence(refusal)  # which tells more than what came first
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("trouble", [GONE, CUT], ids=["out of reach", "lost in the middle of a login"])
def test_what_may_be_a_second_address_has_a_few_seconds(errors: consumer.Errors, trouble: KafkaError) -> None:
    for error in (trouble, DOWN):
        errors.error_cb(error)
    assert errors.limit == consumer.DOWN_SECONDS
    assert errors.trouble.startswith("no connection to one.example:9093,two.example:9093")


# ---- later ---------------------------------------------------------------------------------------------------------


def said(capfd: pytest.CaptureFixture[str]) -> list[str]:
    """Return the lines of standard error since the last time."""
    return capfd.readouterr().err.splitlines()


def test_each_code_is_told_once_a_minute_by_itself(
    running: consumer.Errors, clock: list[float], capfd: pytest.CaptureFixture[str]
) -> None:
    for error in (GONE, DOWN, TLS, GONE, DOWN, TLS):
        running.error_cb(error)
    running.on_commit(KafkaError(KafkaError._WAIT_COORD), [])
    running.on_commit(KafkaError(KafkaError._TIMED_OUT), [])
    lines = said(capfd)
    assert [line.split()[1] for line in lines] == ["lost", "lost", "TLS", "what"]
    clock[0] += consumer.QUIET_SECONDS - 1
    running.error_cb(GONE)
    assert said(capfd) == []
    clock[0] += 1
    running.error_cb(GONE)
    assert said(capfd) == lines[:1]


def test_trying_again_is_said_only_of_what_passes_by_itself(
    running: consumer.Errors, capfd: pytest.CaptureFixture[str]
) -> None:
    other = KafkaError(KafkaError._FAIL, "whatever")
    for error in (GONE, DOWN, TLS, REFUSED, other):
        running.error_cb(error)
    assert [line.endswith("; trying again until it works") for line in said(capfd)] == [True, True, False, False, False]


def test_a_lost_connection_is_told_with_the_address(
    running: consumer.Errors, capfd: pytest.CaptureFixture[str]
) -> None:
    running.error_cb(GONE)
    (line,) = said(capfd)
    assert re.match("warning: lost connection, or an address that the broker advertises .* .one.example:9093: ", line)


def test_a_login_that_was_cut_is_a_lost_connection(running: consumer.Errors, capfd: pytest.CaptureFixture[str]) -> None:
    running.error_cb(CUT)
    assert said(capfd)[0].startswith("warning: lost connection")
    assert running.refused == consumer.NOT_REFUSED


@pytest.mark.parametrize("refusal", [REFUSED, TLS], ids=["login", "TLS"])
def test_a_refusal_that_lasts_for_thirty_seconds_ends_the_run(
    running: consumer.Errors, clock: list[float], refusal: KafkaError
) -> None:
    assert consumer.REFUSED_SECONDS == 30
    for passed in (0, 29):
        clock[0] = 1000.0 + passed
        running.error_cb(refusal)
        assert running.failure is None
    clock[0] += 1
    running.error_cb(refusal)
    assert str(running.failure) == running.sentence(refusal)


def test_two_refusals_an_hour_apart_on_a_quiet_topic_are_not_one_that_lasts(
    running: consumer.Errors, clock: list[float]
) -> None:
    for _ in range(3):
        running.error_cb(REFUSED)
        clock[0] += 3600
    assert running.failure is None


def test_an_assignment_between_two_refusals_tells_that_it_passed(running: consumer.Errors, clock: list[float]) -> None:
    statistics = {"topics": {}, "brokers": {}, "cgrp": {"join_state": "steady", "assignment_size": 1}}
    running.error_cb(REFUSED)
    running.stats_cb(json.dumps(statistics))
    clock[0] += 40
    running.error_cb(REFUSED)
    assert running.failure is None


@pytest.mark.parametrize("code", sorted(consumer.FINAL))
@pytest.mark.parametrize("answered", [False, True], ids=["start", "later"])
def test_what_does_not_pass_ends_the_run_whenever_it_comes(errors: consumer.Errors, code: str, answered: bool) -> None:
    errors.answered = answered
    error = KafkaError(getattr(KafkaError, code), "some text")
    errors.error_cb(error)
    assert str(errors.failure) == errors.sentence(error)


def test_a_refusal_for_good_is_told_whatever_comes_with_it(running: consumer.Errors) -> None:
    """librdkafka adds that all brokers are down."""
    running.refused = (time.monotonic() - consumer.REFUSED_SECONDS - 1, time.monotonic() - 1)
    running.error_cb(KafkaError(KafkaError._AUTHENTICATION, f"{AT}SASL authentication error: wrong"))
    running.error_cb(KafkaError(KafkaError._ALL_BROKERS_DOWN, "1/1 brokers are down"))
    assert str(running.failure).startswith("login failed: check sasl.username")
