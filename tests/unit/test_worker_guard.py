"""When a worker's loop may leave its look at the channels out."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.worker import guard
from orchestrator.worker.guard import nothing_to_ask


class Client:
    """What is looked at of a Redis client."""

    def __init__(self, socket: object) -> None:
        self.connection: Any = SimpleNamespace(_sock=socket)


class Channel:
    """What is looked at of kombu's channel."""

    def __init__(self, *, waits: bool = True, may_take: bool = True, queues: tuple[str, ...] = ("steps",)) -> None:
        self.client = Client("socket")
        self.subclient = Client("fanout socket")
        self._in_poll = self.client.connection if waits else None
        self._in_listen: object = None
        self.active_queues = list(queues)
        self.active_fanout_queues: set[str] = set()
        self.qos = SimpleNamespace(can_consume=lambda: may_take)


def cycle_with(*channels: Any) -> Any:
    registered = {(one, one.client, "BRPOP"): "socket" for one in channels}
    return SimpleNamespace(_paused_brpop={}, _channels=channels, _chan_to_sock=registered)


def test_there_is_nothing_to_ask_while_a_channel_waits_and_may_take() -> None:
    assert nothing_to_ask(cycle_with(Channel()))


def test_a_worker_with_its_hands_full_asks_for_nothing() -> None:
    assert nothing_to_ask(cycle_with(Channel(waits=False, may_take=False)))


@pytest.mark.parametrize(
    ("waits", "may_take"),
    [
        pytest.param(False, True, id="it has room and does not wait"),
        pytest.param(True, False, id="it waits and must not take what comes"),
    ],
)
def test_a_channel_that_does_not_do_what_it_may_is_asked(waits: bool, may_take: bool) -> None:
    assert not nothing_to_ask(cycle_with(Channel(), Channel(waits=waits, may_take=may_take)))


def test_a_channel_of_broadcasts_waits_for_no_message() -> None:
    channel = Channel(waits=False, queues=())
    channel.active_fanout_queues = {"pidbox"}
    channel._in_listen = channel.subclient.connection
    cycle = cycle_with(channel)

    assert not nothing_to_ask(cycle), "its socket is not registered"
    cycle._chan_to_sock[channel, channel.subclient, "LISTEN"] = "fanout socket"
    assert nothing_to_ask(cycle)
    channel._in_listen = None
    assert not nothing_to_ask(cycle), "it does not listen"


def test_another_socket_than_the_registered_one_is_told() -> None:
    channel = Channel()
    cycle = cycle_with(channel)
    channel.client.connection._sock = "socket of a new connection"

    assert not nothing_to_ask(cycle)
    channel.client.connection = None
    assert not nothing_to_ask(cycle)


def test_a_paused_channel_is_looked_at() -> None:
    cycle = cycle_with(Channel())
    cycle._paused_brpop = {7: "anything"}

    assert not nothing_to_ask(cycle)


class Loop:
    """What is told of sockets in place of kombu's loop."""

    def __init__(self) -> None:
        self.readers: dict[int, Any] = {}
        self.told: list[int] = []

    def add_reader(self, number: int, callback: Any, *arguments: Any) -> None:
        self.readers[number] = (callback, arguments)
        self.told.append(number)


class Carrier:
    """kombu's transport, with one channel that waits over the socket 7."""

    def __init__(self) -> None:
        self.looks = 0
        self.channel = Channel()
        self.cycle = cycle_with(self.channel)
        self.cycle.fds = {7: self.channel}
        self.cycle.on_poll_start = self._look

    def _look(self) -> None:
        self.looks += 1

    def on_readable(self, number: int) -> None:
        """Called with what can be read."""


def test_a_look_tells_of_sockets_once_and_then_of_those_that_are_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(guard, "monotonic", lambda: now)
    loop, carrier = Loop(), Carrier()
    look = guard._Look(carrier, loop)

    look()
    look()
    assert (carrier.looks, loop.told) == (1, [7]), "nothing has changed"

    carrier.channel._in_poll = None
    look()
    assert (carrier.looks, loop.told) == (2, [7]), "the socket is known"

    del loop.readers[7]  # as it is when the channel was paused
    look()
    assert loop.told == [7, 7]

    loop.readers[7] = (Carrier().on_readable, (7,))  # of a transport that is gone
    look()
    assert loop.told == [7, 7, 7]

    carrier.channel._in_poll = carrier.channel.client.connection
    now += guard.TOLD_ANEW + 0.1
    look()
    assert (carrier.looks, loop.told) == (5, [7, 7, 7, 7]), "whatever is known"


def test_a_transport_has_one_look_however_often_it_is_registered() -> None:
    from kombu.transport.redis import Transport

    guard.poll_only_on_change()
    registered = Transport.register_with_event_loop
    guard.poll_only_on_change()
    assert Transport.register_with_event_loop is registered
