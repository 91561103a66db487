"""The rules for sending a request again. All of it is pure: time and chance are passed in."""

import time
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger_client.driver import Driver
from ledger_client.messages import NOT_SENT, Plan, Request, Response
from ledger_client.retry import Environment, RetryPolicy
from ledger_client.runtime.backoff import parse_retry_after
from ledger_core.tlog.errors import MalformedError, UnavailableError

NOV_25_2026 = 1_795_572_216.0


@dataclass
class FakeTime:
    """Time that moves when somebody sleeps, and a fixed chance."""

    now_s: float = 0.0
    drawn: float = 0.5
    pauses: list[float] = field(default_factory=list)
    sent: list[Request] = field(default_factory=list)

    def environment(self) -> Environment:
        return Environment(
            monotonic_s=lambda: self.now_s, unix_s=lambda: NOV_25_2026, draw=lambda: self.drawn
        )

    def run(
        self,
        plan: Plan[str],
        answers: list[Response | UnavailableError],
        retry: RetryPolicy,
    ) -> str:
        """Run a plan against these answers; the last one comes again and again."""

        def send(request: Request) -> Response:
            answer = answers[min(len(self.sent), len(answers) - 1)]
            self.sent.append(request)
            if isinstance(answer, UnavailableError):
                raise answer
            return answer

        def sleep(delay_s: float) -> None:
            self.pauses.append(delay_s)
            self.now_s += delay_s

        driver = Driver(send, sleep=sleep, retry=retry, environment=self.environment())
        return driver.run(plan)


def ask_once() -> Plan[str]:
    response = yield Request(target="/checkpoint")
    return f"{response.status} {response.body.decode()}"


def ok(body: str = "fine") -> Response:
    return Response(status=200, body=body.encode())


def failed(status: int, retry_after: str | None = None) -> Response:
    return Response(status=status, body=b"", retry_after=retry_after)


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_an_answer_that_says_later_is_asked_for_again(status: int) -> None:
    fake = FakeTime()
    assert fake.run(ask_once(), [failed(status), ok()], RetryPolicy()) == "200 fine"
    assert len(fake.sent) == 2


@pytest.mark.parametrize("status", [200, 207, 301, 400, 401, 403, 404, 409, 413, 422, 500, 507])
def test_any_other_answer_is_an_answer(status: int) -> None:
    fake = FakeTime()
    assert fake.run(ask_once(), [failed(status), ok()], RetryPolicy()).startswith(str(status))
    assert fake.pauses == []


def test_a_lost_connection_is_tried_again() -> None:
    fake = FakeTime()
    answers: list[Response | UnavailableError] = [UnavailableError("reset"), ok()]
    assert fake.run(ask_once(), answers, RetryPolicy()) == "200 fine"


def test_attempts_are_bounded_and_the_last_failure_is_told() -> None:
    fake = FakeTime()
    with pytest.raises(
        UnavailableError, match=r"GET /checkpoint: reset \(attempt 3 of 3"
    ) as caught:
        fake.run(ask_once(), [UnavailableError("reset")], RetryPolicy(attempts_max=3))
    assert len(fake.sent) == 3
    assert caught.value.retry_after_s is None


def test_total_fakeis_bounded() -> None:
    fake = FakeTime(drawn=0.99)
    retry = RetryPolicy(attempts_max=1000, total_s=20.0, delay_base_s=1.0, delay_max_s=5.0)
    with pytest.raises(UnavailableError):
        fake.run(ask_once(), [failed(503)], retry)
    assert fake.now_s <= 20.0
    assert len(fake.sent) > 4


def test_waits_grow_and_are_drawn_from_all_of_the_interval() -> None:
    retry = RetryPolicy(attempts_max=6, delay_base_s=1.0, delay_max_s=5.0)
    fake = FakeTime(drawn=0.5)
    with pytest.raises(UnavailableError):
        fake.run(ask_once(), [failed(503)], retry)
    assert fake.pauses == [0.5, 1.0, 2.0, 2.5, 2.5]
    fake = FakeTime(drawn=0.0)
    with pytest.raises(UnavailableError):
        fake.run(ask_once(), [failed(503)], retry)
    assert fake.pauses == [0.0] * 5


def test_retry_after_is_waited_for() -> None:
    fake = FakeTime(drawn=0.0)
    retry = RetryPolicy(retry_after_max_s=10.0)
    answers: list[Response | UnavailableError] = [failed(503, "7"), failed(429, "10"), ok()]
    assert fake.run(ask_once(), answers, retry) == "200 fine"
    assert fake.pauses == [7.0, 10.0]


def unpublished(retry_after: str) -> Response:
    body = b'{"type": "/problems#not-yet-published", "title": "Not yet published", "status": 503}'
    return Response(status=503, body=body, retry_after=retry_after)


def test_a_head_is_waited_for_as_long_as_the_log_takes_to_publish_it() -> None:
    fake = FakeTime()
    answers: list[Response | UnavailableError] = [
        *[unpublished("590")] * 2,
        failed(503),
        ok(),
    ]
    assert fake.run(ask_once(), answers, RetryPolicy(attempts_max=2, total_s=30)) == "200 fine"
    assert fake.pauses[:2] == [590, 590]


def test_a_head_that_never_comes_is_given_up() -> None:
    fake = FakeTime()
    with pytest.raises(UnavailableError):
        fake.run(ask_once(), [unpublished("1000")], RetryPolicy())
    assert sum(fake.pauses) == 3_000
    fake = FakeTime()
    with pytest.raises(UnavailableError):
        fake.run(ask_once(), [unpublished("1")], RetryPolicy())
    assert len(fake.pauses) < 10


def test_a_server_that_asks_for_a_longer_wait_than_the_policy_allows_is_not_asked_again() -> None:
    fake = FakeTime(drawn=0.0)
    with pytest.raises(UnavailableError) as caught:
        fake.run(ask_once(), [failed(503, "11")], RetryPolicy(retry_after_max_s=10.0))
    assert (fake.pauses, caught.value.retry_after_s) == ([], 11.0)


def test_the_wait_that_was_asked_for_reaches_the_caller() -> None:
    with pytest.raises(UnavailableError) as caught:
        FakeTime().run(ask_once(), [failed(503, "7")], RetryPolicy(attempts_max=1))
    assert caught.value.retry_after_s == 7.0


@pytest.mark.parametrize(
    ("text", "wait_s"),
    [
        (None, None),
        ("0", 0.0),
        (" 12 ", 12.0),
        ("Wed, 25 Nov 2026 02:04:36 GMT", 60.0),
        ("Wed, 25 Nov 2026 02:02:36 GMT", 0.0),
        ("-1", None),
        ("1.5", None),
        ("٣", None),
        ("soon", None),
        ("", None),
        ("Wed, 99 Nov 2026 99:99:99 GMT", None),
        ("Mon, 01 Jan 99999999999 00:00:00 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date_or_nothing(
    text: str | None, wait_s: float | None
) -> None:
    assert parse_retry_after(text, unix_s=NOV_25_2026 - 0.0) == wait_s


def test_a_retry_after_of_a_thousand_digits_is_not_infinite() -> None:
    wait_s = parse_retry_after("9" * 1000, unix_s=0.0)
    assert wait_s is not None
    assert wait_s < 1e10


@given(st.text(max_size=60))
def test_no_retry_after_is_an_error(text: str) -> None:
    wait_s = parse_retry_after(text, unix_s=NOV_25_2026)
    assert wait_s is None or wait_s >= 0


@given(
    attempts=st.integers(1, 10_000),
    elapsed_s=st.floats(0, 1e6),
    retry_after_s=st.none() | st.floats(0, 1e9),
    drawn=st.floats(0, 1, exclude_max=True),
)
def test_no_wait_goes_beyond_the_bounds(
    attempts: int, elapsed_s: float, retry_after_s: float | None, drawn: float
) -> None:
    retry = RetryPolicy(attempts_max=9_000)
    delay_s = retry.delay_s(
        attempts=attempts, elapsed_s=elapsed_s, retry_after_s=retry_after_s, draw=lambda: drawn
    )
    if delay_s is not None:
        assert 0 <= delay_s <= retry.retry_after_max_s + retry.delay_max_s
        assert elapsed_s + delay_s <= retry.total_s
        assert attempts < retry.attempts_max


def test_a_plan_hears_of_the_failure_and_may_go_on() -> None:
    def ask_twice() -> Plan[str]:
        try:
            yield Request(target="/a")
        except UnavailableError:
            response = yield Request(target="/b")
            return response.body.decode()
        return "a"

    answers: list[Response | UnavailableError] = [failed(503), ok("b")]
    assert FakeTime().run(ask_twice(), answers, RetryPolicy(attempts_max=1)) == "b"


def test_a_plan_is_closed_when_it_does_not_run_to_its_end() -> None:
    closed = []

    def ask() -> Plan[str]:
        try:
            yield Request(target="/a")
        finally:
            closed.append(True)
        return ""

    def send(_request: Request) -> Response:
        raise MalformedError("answer too long")

    driver = Driver(
        send, sleep=time.sleep, retry=RetryPolicy(), environment=FakeTime().environment()
    )
    with pytest.raises(MalformedError, match="too long"):
        driver.run(ask())
    assert closed == [True]


@pytest.mark.parametrize("is_needed", [True, False])
def test_a_request_with_unless_is_sent_when_it_is_still_needed(is_needed: bool) -> None:
    def ask() -> Plan[str]:
        response = yield Request(target="/a", unless=lambda: not is_needed)
        return "not sent" if response == NOT_SENT else response.body.decode()

    fake = FakeTime()
    assert fake.run(ask(), [ok()], RetryPolicy()) == ("fine" if is_needed else "not sent")
    assert len(fake.sent) == is_needed


@pytest.mark.parametrize("bounds", [{"attempts_max": 0}, {"total_s": -1.0}, {"delay_base_s": -0.1}])
def test_bounds_that_allow_nothing_are_refused(bounds: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"negative|at least one"):
        RetryPolicy(**bounds)  # type: ignore[arg-type]  # the attempts are an integer, as given
