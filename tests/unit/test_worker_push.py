"""One doorbell into Redis: over the connection at hand, and once more by the library where that was lost."""

from __future__ import annotations

from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError, TimeoutError

from orchestrator.worker.chain import _push


class Connection:
    """One of a pool of one, which answers with this."""

    def __init__(self, answer: Exception | int) -> None:
        self._answer = answer
        self.sent: list[tuple[str, ...]] = []
        self.disconnected = 0
        self.released = 0

    def get_connection(self) -> Connection:
        return self

    def send_command(self, *command: str) -> None:
        self.sent.append(command)

    def read_response(self) -> int:
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer

    def disconnect(self) -> None:
        self.disconnected += 1

    def release(self, connection: Connection) -> None:
        assert connection is self
        self.released += 1


class Client:
    """A Redis client whose keys have a prefix."""

    def __init__(self, answer: Exception | int) -> None:
        self.connection_pool = Connection(answer)
        self.pushed: list[tuple[str, str]] = []

    def _prefix_args(self, command: list[str]) -> list[str]:
        return [command[0], f"ours:{command[1]}", *command[2:]]

    def lpush(self, name: str, message: str) -> None:
        self.pushed.append((name, message))


def test_a_push_goes_over_the_connection_at_hand() -> None:
    client = Client(1)
    _push(client, "steps", "message")
    assert client.connection_pool.sent == [("LPUSH", "ours:steps", "message")]
    assert (client.connection_pool.released, client.pushed) == (1, [])


def test_a_lost_connection_leaves_the_push_to_the_library() -> None:
    client = Client(RedisConnectionError("gone"))
    _push(client, "steps", "message")
    assert (client.connection_pool.disconnected, client.connection_pool.released) == (1, 1)
    assert client.pushed == [("steps", "message")]


@pytest.mark.parametrize(("trouble", "disconnected"), [(TimeoutError("slow"), 1), (ResponseError("OOM"), 0)])
def test_what_another_try_would_not_mend_is_raised(trouble: Exception, disconnected: int) -> None:
    client: Any = Client(trouble)
    with pytest.raises(type(trouble)):
        _push(client, "steps", "message")
    assert (client.connection_pool.disconnected, client.connection_pool.released) == (disconnected, 1)
    assert client.pushed == []
