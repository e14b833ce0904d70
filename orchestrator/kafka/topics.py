"""The four topics: made where they are missing, and waited for."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence

from kafka import KafkaAdminClient
from kafka.errors import KafkaError, TopicAlreadyExistsError

from orchestrator.errors import KafkaUnavailable
from orchestrator.kafka.connection import as_our_error, open_admin
from orchestrator.settings import Settings

log = logging.getLogger(__name__)


def topic_names(settings: Settings) -> tuple[str, str, str, str]:
    """Tasks, events, updates, dead letters."""
    return (
        settings.topic("tasks"),
        settings.topic("events"),
        settings.topic("updates"),
        settings.topic("dead_letters"),
    )


def missing_topics(settings: Settings) -> Sequence[str]:
    """Which of the four are not there (or not to be seen by this user).

    Raises:
        KafkaUnavailable, ConfigurationError: as `open_admin`.
    """
    admin = open_admin(settings)
    try:
        return _missing(admin, settings)
    except KafkaError as error:
        raise as_our_error(settings, error) from error
    finally:
        admin.close()


def ensure_topics(settings: Settings, stop: threading.Event, timeout: float = 30.0) -> None:
    """Make missing topics (``KAFKA_CREATE_TOPICS``; partitions and replicas by the broker's default) and wait for all.

    Returns early where ``stop`` is set.

    Raises:
        KafkaUnavailable: they are not there after ``timeout`` seconds.
        ConfigurationError: the broker refuses us.
    """
    admin = open_admin(settings)
    try:
        if settings.kafka_create_topics:
            _create(admin, _missing(admin, settings))
        deadline = time.monotonic() + timeout
        while (missing := _missing(admin, settings)) and not stop.wait(0.1):
            if time.monotonic() > deadline:
                raise KafkaUnavailable(
                    f"these topics are not there: {', '.join(missing)}",
                    hint="Create them, or set KAFKA_CREATE_TOPICS=true and let this user create topics.",
                )
    except KafkaError as error:
        raise as_our_error(settings, error) from error
    finally:
        admin.close()


def _missing(admin: KafkaAdminClient, settings: Settings) -> list[str]:
    there = set(admin.list_topics())
    return [name for name in topic_names(settings) if name not in there]


def _create(admin: KafkaAdminClient, names: Sequence[str]) -> None:
    for name in names:
        try:
            admin.create_topics([name])
        except TopicAlreadyExistsError:
            continue  # another bridge was quicker
        log.info("kafka.topic_created", extra={"topic": name})
