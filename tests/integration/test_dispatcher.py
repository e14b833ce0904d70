"""Doorbells on a real Redis-compatible server: what a message holds, its turn, what trouble looks like."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery
from kombu.exceptions import OperationalError
from kombu.utils import functional
from redis import Redis
from redis.connection import AbstractConnection

from orchestrator.devstack.stack import EmbeddedStack
from orchestrator.domain.journal import Dispatch
from orchestrator.errors import DispatchFailed
from orchestrator.settings import Settings, read_settings
from orchestrator.worker import broker
from orchestrator.worker.dispatcher import CeleryDispatcher
from orchestrator.worker.guard import guard_channels, guard_reconnecting
from orchestrator.worker.names import STEPS_QUEUE


def dispatcher_on(url: str) -> CeleryDispatcher:
    return dispatcher_for(settings_for(url))


def dispatcher_for(settings: Settings) -> CeleryDispatcher:
    """A dispatcher as ``celeryconfig.py`` would have it under these settings."""
    guard_channels()
    app = Celery("orchestrator", set_as_current=False)
    app.conf.update(
        broker_url=broker.broker_url(settings),
        broker_use_ssl=broker.broker_tls(settings),
        broker_transport_options=broker.transport_options(settings),
        task_default_queue=STEPS_QUEUE,
        task_publish_retry=False,
        task_ignore_result=True,
    )
    return CeleryDispatcher(app)


def settings_for(url: str) -> Settings:
    return read_settings({"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none", "REDIS_URL": url}, dotenv=None)


def waiting(url: str) -> list[dict[str, Any]]:
    """All step messages, the most urgent first."""
    with Redis.from_url(url) as client:
        names = [name.decode() for name in client.scan_iter(match=f"orchestrator:{STEPS_QUEUE}*")]
        ordered = sorted(names, key=lambda name: int(name.rpartition("\x06\x16")[2] if "\x06\x16" in name else 0))
        return [json.loads(raw) for name in ordered for raw in reversed(client.lrange(name, 0, -1))]


def test_a_doorbell_holds_ids_and_numbers_only(redis_url: str) -> None:
    with_ids = dispatcher_on(redis_url)
    with_ids.dispatch([Dispatch("order/1", 7, priority=4)])
    (message,) = waiting(redis_url)
    args, kwargs, embed = json.loads(b64decode(message["body"]))
    assert args == []
    assert kwargs == {"task_id": "order/1", "step": 7}
    assert message["headers"]["task"] == "orchestrator.step"
    assert message["headers"]["root_id"] == "order%2F1"
    assert message["headers"]["id"].startswith("order%2F1:7:")
    assert not embed["chain"]
    with_ids.close()


def test_a_doorbell_is_one_message_to_redis(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The guard of docs/performance.md: a step by message sends its successor in one round trip."""
    dispatcher = dispatcher_on(redis_url)
    dispatcher.dispatch([Dispatch("first", 1)])
    sent: list[Any] = []
    send: Callable[..., None] = AbstractConnection.send_packed_command

    def noted(self: AbstractConnection, command: Any, *args: Any, **kwargs: Any) -> None:
        sent.append(command)
        send(self, command, *args, **kwargs)

    monkeypatch.setattr(AbstractConnection, "send_packed_command", noted)
    for step in (2, 3, 4):
        dispatcher.dispatch([Dispatch("first", step)], parent_id="first:1:0")
    assert len(sent) == 3, sent
    dispatcher.close()


def test_the_backlog_counts_every_priority_and_urgent_ones_come_first(redis_url: str) -> None:
    dispatcher = dispatcher_on(redis_url)
    assert dispatcher.backlog() == 0
    dispatcher.dispatch([Dispatch(f"p{priority}", 1, priority) for priority in (0, 4, 9, 5)])
    assert dispatcher.backlog() == 4
    assert [message["headers"]["root_id"] for message in waiting(redis_url)] == ["p9", "p5", "p4", "p0"]
    dispatcher.close()


def test_a_broker_that_is_away_is_told_and_not_waited_for() -> None:
    away = dispatcher_on("redis://127.0.0.1:1/0")
    with pytest.raises(DispatchFailed, match="2 step messages were not all sent"):
        away.dispatch([Dispatch("a", 1), Dispatch("b", 1)])
    with pytest.raises(DispatchFailed):
        away.backlog()
    with pytest.raises(DispatchFailed):
        away.broker_info()
    with pytest.raises(DispatchFailed):
        away.workers(0.1)
    away.close()


def test_a_broker_that_was_restarted_is_used_again(private_stack: EmbeddedStack) -> None:
    dispatcher = dispatcher_on(private_stack.env()["REDIS_URL"])
    dispatcher.dispatch([Dispatch("before", 1)])
    private_stack.valkey.kill()
    with pytest.raises(DispatchFailed):
        dispatcher.dispatch([Dispatch("meanwhile", 1)])
    private_stack.valkey.start()
    dispatcher.dispatch([Dispatch("after", 1)])
    assert dispatcher.backlog() >= 1
    dispatcher.close()


def test_an_emptied_redis_has_lost_our_mark(redis_url: str) -> None:
    dispatcher = dispatcher_on(redis_url)
    assert dispatcher.emptied()
    dispatcher.mark()
    dispatcher.dispatch([Dispatch("a", 1)])
    assert not dispatcher.emptied()
    with Redis.from_url(redis_url) as client:
        assert client.exists("orchestrator:mark")
        client.flushdb()
    assert dispatcher.emptied()
    assert dispatcher.backlog() == 0
    dispatcher.close()


def test_a_worker_that_waits_for_redis_looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    guard_reconnecting()
    monkeypatch.setattr(functional, "sleep", lambda _seconds: None)
    pauses: list[float] = []
    app = dispatcher_on("redis://127.0.0.1:1/0").app
    with app.connection_for_read() as connection, pytest.raises(OperationalError):
        # As Celery's consumer does it, but for the bound.
        connection.ensure_connection(lambda _error, pause: pauses.append(pause), 6)
    assert pauses == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]


def test_what_redis_says_of_itself(redis_url: str) -> None:
    dispatcher = dispatcher_on(redis_url)
    assert "redis_version" in dispatcher.broker_info()
    assert dispatcher.workers(0.1) == []
    dispatcher.close()
