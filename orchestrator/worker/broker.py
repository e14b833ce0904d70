"""Celery's connection to Redis, as the settings have it: TLS, ACL, Sentinel, time-outs."""

from __future__ import annotations

import ssl
from typing import Any

from orchestrator.domain.turns import PRIORITIES
from orchestrator.settings import Settings


def broker_url(settings: Settings) -> str:
    """The address of the broker. For Sentinel, credentials in the first address are those of the master itself."""
    return settings.redis_url.get_secret_value()


def broker_tls(settings: Settings) -> dict[str, Any] | None:
    """TLS options of the connection; None without TLS.

    ``rediss://`` asks for it. Sentinel addresses have no such form: there ``REDIS_SSL_CA`` does.
    """
    url = broker_url(settings)
    if not url.startswith("rediss://") and not (url.startswith("sentinel://") and settings.redis_ssl_ca_file):
        return None
    options: dict[str, Any] = {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": True}
    files = {
        "ssl_ca_certs": settings.redis_ssl_ca_file,
        "ssl_certfile": settings.redis_ssl_cert,
        "ssl_keyfile": settings.redis_ssl_key,
    }
    return options | {name: str(path) for name, path in files.items() if path is not None}


def transport_options(settings: Settings) -> dict[str, Any]:
    """kombu's options for Redis; lengths of time in seconds."""
    options: dict[str, Any] = {
        # What a worker has in hand is not kept in Redis besides: a doorbell lost with its worker is rung by the sweep
        # within seconds, and two round trips a message are spared. A worker that is stopped puts its messages back.
        "ack_emulation": False,
        # A Redis that hangs raises instead of holding a step for ever.
        "socket_timeout": 5,
        "socket_connect_timeout": 3,
        "socket_keepalive": True,
        "health_check_interval": 10,
        # Each thread that publishes takes one.
        "max_connections": max(256, 2 * settings.concurrency),
        # Urgent before the rest; of the same urgency `control` before `steps`, `steps` before `steps-later`.
        "queue_order_strategy": "priority",
        "priority_steps": list(range(PRIORITIES)),
        "global_keyprefix": settings.redis_key_prefix,
        # Who publishes learns at once that Redis is away, instead of waiting without end.
        "max_retries": 1,
        "interval_start": 0,
        "interval_step": 0.2,
    }
    if broker_url(settings).startswith("sentinel://"):
        options["master_name"] = settings.redis_sentinel_master
        options["sentinel_kwargs"] = _sentinel_login(settings)
    return options


def _sentinel_login(settings: Settings) -> dict[str, Any]:
    """How to talk to the Sentinels themselves."""
    login: dict[str, Any] = {"socket_timeout": 3}
    if settings.redis_sentinel_password is not None:
        login["password"] = settings.redis_sentinel_password.get_secret_value()
    if tls := broker_tls(settings):
        login |= {"ssl": True, **tls}
    return login
