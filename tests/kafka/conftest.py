"""The broker of these tests; without its jars they are not collected."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.devstack.keeper import Keeper
from orchestrator.devstack.server import Place
from tests.kafka.apache import ApacheKafka
from tests.support.stack import SharedStack

CLASSPATH = "ORCHESTRATOR_TEST_KAFKA_CLASSPATH"
collect_ignore_glob = [] if os.environ.get(CLASSPATH) else ["test_*.py"]


@pytest.fixture(scope="session")
def apache_kafka(keeper: Keeper, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApacheKafka]:
    """A broker that tests may kill; whoever does starts it again."""
    folder: Path = tmp_path_factory.mktemp("kafka")
    broker = ApacheKafka(keeper, Place(folder / "data", folder / "kafka.log"), os.environ[CLASSPATH])
    broker.start()
    yield broker
    broker.kill()


@pytest.fixture(scope="session")
def stack(stack: SharedStack, apache_kafka: ApacheKafka) -> SharedStack:
    """The servers of this run, but for the broker."""
    return replace(stack, kafka=apache_kafka.bootstrap_servers)
