"""Kombu's Redis channels as we need them: a worker outlives its broker, and no work is done twice for each message.

First what kombu does wrong when Redis goes away, with messages in hand or for long.

Without this, restoring or acknowledging a message on a closed channel reads ``connection.client`` of None, an
AttributeError that no one expects, and the worker process ends with exit code 1. Raised as Redis's own
ConnectionError it takes the path of every lost connection: the worker reconnects.
"""

from __future__ import annotations

from time import monotonic
from typing import Any

from kombu.connection import Connection
from kombu.transport import redis as transport
from redis.exceptions import ConnectionError as RedisConnectionError


def guard_channels() -> None:
    """Make kombu's Redis channels raise a connection error when their connection is gone. May be repeated."""
    original = transport.Channel._connparams
    if getattr(original, "guarded", False):
        return

    def connparams(channel: Any, asynchronous: bool = False) -> Any:
        if getattr(channel.connection, "client", None) is None:
            raise RedisConnectionError("the channel's connection to Redis is closed")
        return original(channel, asynchronous=asynchronous)  # type: ignore[no-untyped-call]  # kombu ships few types

    connparams.guarded = True  # type: ignore[attr-defined]  # a mark on the function itself, read above
    transport.Channel._connparams = connparams  # type: ignore[method-assign]  # that is the guard


LONGEST_PAUSE = 2.0
"""Seconds between two attempts to reach Redis again. kombu waits two seconds more each time, up to half a minute, and
nothing moves for as long after Redis is back."""


def guard_reconnecting() -> None:
    """Let a worker that waits for its broker look often. May be repeated."""
    original: Any = Connection._ensure_connection
    if getattr(original, "guarded", False):
        return

    def ensure_connection(connection: Any, *args: Any, **options: Any) -> Any:
        if len(args) < 3:  # the pauses are not given by place
            options = {"interval_start": 0.5, "interval_step": 0.5, "interval_max": LONGEST_PAUSE, **options}
        return original(connection, *args, **options)

    ensure_connection.guarded = True  # type: ignore[attr-defined]  # a mark on the function itself, read above
    Connection._ensure_connection = ensure_connection  # type: ignore[assignment,method-assign]  # that is the guard


def share_clients() -> None:
    """Let a channel keep its Redis client: kombu makes a new one for each command. May be repeated."""
    original: Any = transport.Channel._create_client
    if getattr(original, "shared", False):
        return

    def create_client(channel: Any, asynchronous: bool = False) -> Any:
        if asynchronous:
            return original(channel, asynchronous=True)
        kept = channel.__dict__.get("_kept_client")
        if kept is None or kept.connection_pool is not channel.pool:
            kept = channel.__dict__["_kept_client"] = original(channel)
        return kept

    create_client.shared = True  # type: ignore[attr-defined]  # a mark on the function itself, read above
    transport.Channel._create_client = create_client  # type: ignore[method-assign]  # a client is safe for threads


def pack_waiting_once() -> None:
    """Let a channel keep the command by which it waits: fifty lists, the same each time. May be repeated."""
    original: Any = transport.Channel._brpop_start
    if getattr(original, "packed", False):
        return

    def brpop_start(channel: Any, timeout: Any = None) -> None:
        queues = tuple(channel._queue_cycle.consume(len(channel.active_queues)))
        if not queues:
            return
        wait = channel.brpop_timeout if timeout is None else timeout
        connection = channel.client.connection
        kept = channel.__dict__.setdefault("_kept_waiting", {})
        packed = kept.get((queues, wait))
        if packed is None:
            keys = [channel._q_for_pri(queue, priority) for priority in channel.priority_steps for queue in queues]
            command = ["BRPOP", *keys, wait or 0]
            if channel.global_keyprefix:
                command = channel.client._prefix_args(command)
            packed = kept[(queues, wait)] = connection.pack_command(*command)
        channel._in_poll = connection
        channel._brpop_sent_at = monotonic()
        connection.send_packed_command(packed)

    brpop_start.packed = True  # type: ignore[attr-defined]  # a mark on the function itself, read above
    transport.Channel._brpop_start = brpop_start  # type: ignore[method-assign]  # the same command, made once


TOLD_ANEW = 1.0
"""Seconds after which the loop is told of all sockets again, whatever is known of them."""


def poll_only_on_change() -> None:
    """Let a turn of a worker's loop look at its channels only where there is something to do. May be repeated.

    kombu asks each channel, and tells the loop of each socket, with each turn. There are two turns a message, one for
    its arrival and one for its end, and most leave nothing to ask for: the worker waits already, or holds all it may.
    """
    original: Any = transport.Transport.register_with_event_loop
    if getattr(original, "calm", False):
        return

    def register_with_event_loop(carrier: Any, connection: Any, loop: Any) -> None:
        before = set(loop.on_tick)
        original(carrier, connection, loop)
        for look in set(loop.on_tick) - before:
            loop.on_tick.remove(look)
        loop.on_tick.add(_Look(carrier, loop))

    register_with_event_loop.calm = True  # type: ignore[attr-defined]  # a mark on the function itself, read above
    transport.Transport.register_with_event_loop = register_with_event_loop  # type: ignore[method-assign]  # that is it


class _Look:
    """A look at the channels, left out where it would change nothing."""

    def __init__(self, carrier: Any, loop: Any) -> None:
        self._carrier = carrier
        self._loop = loop
        self._told_at = float("-inf")

    def __call__(self) -> None:
        cycle = self._carrier.cycle
        anew = monotonic() - self._told_at > TOLD_ANEW
        if not anew and nothing_to_ask(cycle):
            return
        cycle.on_poll_start()
        for number in cycle.fds:
            reader = (self._carrier.on_readable, (number,))
            if anew or self._loop.readers.get(number) != reader:
                self._loop.add_reader(number, self._carrier.on_readable, number)
        if anew:
            self._told_at = monotonic()


def nothing_to_ask(cycle: Any) -> bool:
    """Whether each channel waits for a message exactly where it may take one, over a socket that is registered."""
    if cycle._paused_brpop:
        return False
    for channel in cycle._channels:
        if bool(channel._in_poll) != (bool(channel.active_queues) and channel.qos.can_consume()):
            return False
        if channel._in_poll and not _is_registered(cycle, channel, channel.client, "BRPOP"):
            return False
        if channel.active_fanout_queues and not (
            channel._in_listen and _is_registered(cycle, channel, channel.subclient, "LISTEN")
        ):
            return False
    return True


def _is_registered(cycle: Any, channel: Any, client: Any, command: str) -> bool:
    socket = cycle._chan_to_sock.get((channel, client, command))
    return socket is not None and client.connection is not None and client.connection._sock is socket
