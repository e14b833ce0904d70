"""What the storm produces: a record that the broker refuses is sent again."""

from __future__ import annotations

import time
from typing import Any

import pytest
from kafka.errors import KafkaError, UnknownError
from kafka.future import Future

from tests.chaos.traffic import Sent


class Producer:
    """As many refusals as the test says, then a place."""

    def __init__(self, refusals: int) -> None:
        self.refusals = refusals
        self.sent: list[tuple[Any, ...]] = []

    def send(self, *parts: Any, **more: Any) -> Any:
        self.sent.append((*parts, *more.values()))
        answer = Answer()
        if len(self.sent) <= self.refusals:
            answer.failure(UnknownError("refused"))
        else:
            answer.success("a place")
        return answer


class Answer(Future):  # type: ignore[misc]  # the library has no types
    def get(self, timeout: float) -> Any:
        assert timeout >= 1.0
        if self.exception is not None:
            raise self.exception
        return self.value


def test_what_is_refused_is_sent_again_until_it_is_taken() -> None:
    producer: Any = Producer(refusals=3)
    sent = Sent(producer, "events", b"v", b"k")
    sent.again_if_refused()
    assert sent.confirmed(time.monotonic() + 60) == "a place"
    sent.again_if_refused()
    assert producer.sent == [("events", b"v", b"k")] * 4


def test_what_is_refused_for_good_is_told() -> None:
    producer: Any = Producer(refusals=1_000_000)
    with pytest.raises(KafkaError, match="refused"):
        Sent(producer, "events", b"v", b"k").confirmed(time.monotonic() - 1)
