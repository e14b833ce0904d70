"""How the limits reach Redis: the same server as Celery's broker, with time-outs so short that no call waits for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from redis import Redis
from redis.sentinel import Sentinel

PATIENCE = 1.0
"""Seconds that asking may take before we go by our own bounds."""


def connect(
    url: str, *, tls: Mapping[str, Any] | None, master: str, sentinel_password: str | None, connections: int
) -> Redis:
    """A client that connects when first used.

    Args:
        url: as in ``REDIS_URL``.
        tls: certificate options; None without TLS.
        master: its name, where ``url`` is of Sentinels.
        sentinel_password: of the Sentinels themselves.
        connections: how many at most.
    """
    options: dict[str, Any] = {
        "socket_timeout": PATIENCE,
        "socket_connect_timeout": PATIENCE,
        "health_check_interval": 10,
        "max_connections": connections,
        **({} if tls is None else tls),
    }
    if not url.startswith("sentinel://"):
        return Redis.from_url(url, **options)
    login: dict[str, Any] = {"socket_timeout": PATIENCE}
    if sentinel_password is not None:
        login["password"] = sentinel_password
    if tls is not None:
        login |= {"ssl": True, **tls}
        options["ssl"] = True
    places = [urlsplit(part) for part in url.split(";")]
    first = places[0]
    if first.password is not None:
        options["password"] = unquote(first.password)
    if first.username:
        options["username"] = unquote(first.username)
    if first.path.strip("/"):
        options["db"] = int(first.path.strip("/"))
    sentinels = [(place.hostname or "127.0.0.1", place.port or 26379) for place in places]
    found: Redis = Sentinel(sentinels, sentinel_kwargs=login).master_for(  # type: ignore[no-untyped-call]  # redis
        master, **options
    )
    return found
