"""Kafka clients from the settings: TLS, SASL, time-outs; and what to say where a broker cannot be reached.

Each ``open_…`` gives a connected client or raises, and leaves nothing behind where it fails.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
from collections.abc import Callable
from typing import Any, TypeVar

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.errors import (
    AuthorizationError,
    IllegalSaslStateError,
    KafkaConfigurationError,
    KafkaError,
    SaslAuthenticationFailedError,
    UnsupportedCodecError,
    UnsupportedSaslMechanismError,
)
from kafka.net.compat import KafkaNetClient

from orchestrator.errors import ConfigurationError, KafkaUnavailable, OrchestratorError
from orchestrator.kafka.oauth import token_provider
from orchestrator.settings import Settings

CONNECT_TIMEOUT = 10.0
"""Seconds until a first connection is given up."""

LARGEST_RECORD = 32 * 1024 * 1024
"""Bytes: what we take from a broker and offer to it; its own limit (``message.max.bytes``, 1 MB by default) decides."""

REFUSED = (
    AuthorizationError,
    IllegalSaslStateError,
    SaslAuthenticationFailedError,
    UnsupportedSaslMechanismError,
)
"""What a broker answers to the wrong credentials or missing rights: waiting does not help."""

_HINT = "Is it running, and are KAFKA_BOOTSTRAP_SERVERS and KAFKA_SECURITY_PROTOCOL what it listens on?"

Client = TypeVar("Client")


def connection_config(settings: Settings) -> dict[str, Any]:
    """What all clients share, as keyword arguments of kafka-python.

    Raises:
        ConfigurationError: a file named in the settings cannot be read, or the token endpoint is not HTTPS.
    """
    config: dict[str, Any] = {
        "bootstrap_servers": list(settings.kafka_bootstrap_servers),
        "client_id": f"orchestrator-{socket.gethostname()}-{os.getpid()}",
        "security_protocol": settings.kafka_security_protocol,
        "bootstrap_timeout_ms": int(CONNECT_TIMEOUT * 1000),
        "reconnect_backoff_max_ms": 2_000,
        # New partitions and topics made anew are noticed within this time.
        "metadata_max_age_ms": 15_000,
    }
    if settings.kafka_security_protocol.endswith("SSL"):
        config["ssl_context"] = tls_context(settings)
    if settings.kafka_security_protocol.startswith("SASL"):
        config |= _sasl(settings)
    return config


def tls_context(settings: Settings) -> ssl.SSLContext:
    """TLS as the settings say: their CA or the system's, a client certificate where one is given, TLS 1.2 or later."""
    try:
        context = ssl.create_default_context(cafile=_path(settings.kafka_ssl_ca))
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.check_hostname = settings.kafka_ssl_check_hostname
        if settings.kafka_ssl_cert is not None:
            # A key without a password is wanted: with one, OpenSSL would ask at the terminal.
            context.load_cert_chain(settings.kafka_ssl_cert, _path(settings.kafka_ssl_key), password="")
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(
            f"Kafka's TLS files cannot be used: {error}",
            hint="KAFKA_SSL_CA, KAFKA_SSL_CERT and KAFKA_SSL_KEY name PEM files that this user may read; "
            "the key has no password.",
        ) from error
    return context


def _path(path: Any) -> str | None:
    return None if path is None else str(path)


def _sasl(settings: Settings) -> dict[str, Any]:
    config: dict[str, Any] = {"sasl_mechanism": settings.kafka_sasl_mechanism}
    if settings.kafka_sasl_mechanism == "OAUTHBEARER":
        return config | {"sasl_oauth_token_provider": token_provider(settings)}
    password = settings.kafka_sasl_password
    return config | {
        "sasl_plain_username": settings.kafka_sasl_username,
        "sasl_plain_password": password.get_secret_value() if password else None,
    }


def open_consumer(settings: Settings) -> KafkaConsumer:
    """A consumer of the bridges' group, not subscribed yet: raw bytes, from the earliest, commits by hand only."""
    session = int(settings.kafka_session_timeout * 1000)
    return _open(
        KafkaConsumer,
        settings,
        group_id=settings.kafka_group_id,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        session_timeout_ms=session,
        heartbeat_interval_ms=max(min(3_000, session // 3), 1),
        max_poll_records=settings.bridge_batch,
        # Also how long a group may wait for a member that died while it joined.
        max_poll_interval_ms=max(60_000, session),
        # What is too large must be seen to be set aside: it would block its partition otherwise.
        fetch_max_bytes=LARGEST_RECORD,
        max_partition_fetch_bytes=max(8 * 1024 * 1024, 2 * settings.max_message_bytes),
        receive_message_max_bytes=4 * LARGEST_RECORD,
        allow_auto_create_topics=False,
        metrics_enabled=False,
    )


def open_producer(settings: Settings, **more: Any) -> KafkaProducer:
    """A producer that waits for all replicas and keeps order."""
    return _open(
        KafkaProducer,
        settings,
        acks="all",
        max_request_size=LARGEST_RECORD,
        delivery_timeout_ms=30_000,
        request_timeout_ms=10_000,
        max_block_ms=10_000,
        allow_auto_create_topics=False,
        metrics_enabled=False,
        **more,
    )


def open_admin(settings: Settings) -> KafkaAdminClient:
    """An admin client."""
    return _open(KafkaAdminClient, settings, request_timeout_ms=10_000)


def _open(kind: Callable[..., Client], settings: Settings, **config: Any) -> Client:
    started: list[KafkaNetClient] = []

    def network(**options: Any) -> KafkaNetClient:
        started.append(KafkaNetClient(**options))
        return started[-1]

    try:
        shared = connection_config(settings)
        if "ssl_context" in shared:
            # kafka-python's TLS handshake has no time-out: a broker without TLS would hold it for ever.
            _require_one_reachable(settings)
        return kind(**shared, **config, kafka_client=network)
    except (KafkaError, OrchestratorError) as error:
        # A constructor that fails leaves its network thread running.
        for client in started:
            with contextlib.suppress(KafkaError, RuntimeError):
                client.close()
        if isinstance(error, OrchestratorError):
            raise
        raise as_our_error(settings, error) from error


def as_our_error(settings: Settings, error: KafkaError) -> ConfigurationError | KafkaUnavailable:
    """kafka-python's error as one of ours, with what to do about it."""
    servers = ",".join(settings.kafka_bootstrap_servers)
    if isinstance(error, REFUSED):
        return ConfigurationError(
            f"Kafka at {servers} refuses us: {error}",
            hint="Check KAFKA_SASL_MECHANISM, its credentials, and what this user may do with topics and group.",
        )
    if isinstance(error, KafkaConfigurationError):
        return ConfigurationError(f"Kafka's settings do not fit together: {error}", hint="See KAFKA_… in the settings.")
    if isinstance(error, UnsupportedCodecError):
        return KafkaUnavailable(
            f"a record is compressed in a way that is not installed here: {error}",
            hint="Its partition waits. pip install 'kafka-python[snappy,lz4,zstd]', and start the bridge again.",
        )
    return KafkaUnavailable(
        f"Kafka at {servers} cannot be used: {why_unreachable(settings) or error}",
        hint=_HINT,
    )


def why_unreachable(settings: Settings) -> str | None:
    """Try the way to each broker by hand and say what is wrong with it; None where nothing is.

    kafka-python itself only says that the time is up.
    """
    problems = [problem for server in settings.kafka_bootstrap_servers if (problem := _try(settings, server))]
    try:
        if settings.kafka_sasl_mechanism == "OAUTHBEARER":
            token_provider(settings).token()
    except KafkaUnavailable as error:
        problems.append(str(error))
    return "; ".join(problems) or None


def _require_one_reachable(settings: Settings) -> None:
    problems = []
    for server in settings.kafka_bootstrap_servers:
        problem = _try(settings, server)
        if problem is None:
            return
        problems.append(problem)
    raise KafkaUnavailable(f"Kafka cannot be used: {'; '.join(problems)}", hint=_HINT)


def _try(settings: Settings, server: str) -> str | None:
    host, _, port = server.rpartition(":")
    host = host.strip("[]")
    try:
        with socket.create_connection((host, int(port)), timeout=5) as plain:
            if settings.kafka_security_protocol.endswith("SSL"):
                with tls_context(settings).wrap_socket(plain, server_hostname=host):
                    return None
    except TimeoutError:
        return f"{server}: no answer; does it speak {settings.kafka_security_protocol}?"
    except ssl.SSLError as error:
        return f"{server}: TLS: {error}"
    except OSError as error:
        return f"{server}: {error}"
    return None
