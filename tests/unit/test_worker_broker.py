"""Celery's connection to Redis as the settings have it."""

from __future__ import annotations

import ssl
from pathlib import Path

from orchestrator.settings import Settings, read_settings
from orchestrator.worker.broker import broker_tls, broker_url, transport_options


def settings(**values: str) -> Settings:
    return read_settings({"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none", **values}, dotenv=None)


def test_plain_redis_has_no_tls() -> None:
    plain = settings(REDIS_URL="redis://user:secret@example.org:6379/2")
    assert broker_url(plain) == "redis://user:secret@example.org:6379/2"
    assert broker_tls(plain) is None
    assert "master_name" not in transport_options(plain)


def test_rediss_checks_the_servers_certificate(tmp_path: Path) -> None:
    tls = broker_tls(settings(REDIS_URL="rediss://example.org:6379/0", REDIS_SSL_CA=str(tmp_path / "ca.pem")))
    assert tls is not None
    assert tls["ssl_cert_reqs"] == ssl.CERT_REQUIRED
    assert tls["ssl_check_hostname"] is True
    assert tls["ssl_ca_certs"] == str(tmp_path / "ca.pem")
    assert "ssl_certfile" not in tls


def test_sentinel_knows_its_master_and_its_own_password() -> None:
    options = transport_options(
        settings(
            REDIS_URL="sentinel://:data-password@one:26379;sentinel://two:26379",
            REDIS_SENTINEL_MASTER="orders",
            REDIS_SENTINEL_PASSWORD="sentinel-password",
        )
    )
    assert options["master_name"] == "orders"
    assert options["sentinel_kwargs"]["password"] == "sentinel-password"
    assert "ssl" not in options["sentinel_kwargs"]


def test_sentinel_with_a_ca_speaks_tls_to_all() -> None:
    options = transport_options(settings(REDIS_URL="sentinel://one:26379", REDIS_SSL_CA="ca.pem"))
    assert options["sentinel_kwargs"]["ssl"] is True
    assert options["sentinel_kwargs"]["ssl_ca_certs"] == "ca.pem"


def test_many_threads_have_connections_enough() -> None:
    assert transport_options(settings(ORCHESTRATOR_CONCURRENCY="400"))["max_connections"] == 800
