"""Transactions on real PostgreSQL: a connection that died while it was idle is no one's trouble."""

from __future__ import annotations

import psycopg2
import pytest
from sqlalchemy import Connection, text

from orchestrator.errors import StoreUnavailable
from orchestrator.store.engine import Transactions, make_engine
from tests.support.stack import SharedStack


def _end_connections(stack: SharedStack, application: str) -> None:
    connection = psycopg2.connect(stack.admin_url())
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = %s", (application,)
        )
        assert cursor.rowcount >= 1
    connection.close()


def test_a_pooled_connection_that_died_while_idle_is_replaced(
    stack: SharedStack, empty_database_url: str, unique_name: str
) -> None:
    transactions = Transactions(make_engine(empty_database_url, pool_size=2, application=unique_name))
    one = text("SELECT 1")
    assert transactions.transact(lambda connection: connection.execute(one).scalar_one()) == 1

    _end_connections(stack, unique_name)

    assert transactions.transact(lambda connection: connection.execute(one).scalar_one()) == 1
    transactions.engine.dispose()


def test_a_call_finds_out_that_its_connection_died_while_idle_or_says_so_once(
    stack: SharedStack, empty_database_url: str, unique_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    transactions = Transactions(make_engine(empty_database_url, pool_size=2, application=unique_name))

    def one() -> int:
        return int(transactions.send(lambda cursor: cursor.mogrify("SELECT %s AS one", (1,)))[0]["one"])

    assert one() == 1
    monkeypatch.setattr("orchestrator.store.engine._STILL_ALIVE", 0.0)
    _end_connections(stack, unique_name)
    assert one() == 1

    monkeypatch.setattr("orchestrator.store.engine._STILL_ALIVE", 60.0)
    assert one() == 1
    _end_connections(stack, unique_name)
    with pytest.raises(StoreUnavailable):
        one()
    assert one() == 1
    with pytest.raises(psycopg2.errors.DivisionByZero):
        transactions.send(lambda _: b"SELECT 1 / 0")
    assert one() == 1, "the connection goes on"
    transactions.engine.dispose()


def test_a_connection_that_dies_in_a_transaction_is_told_and_not_repeated(
    stack: SharedStack, empty_database_url: str, unique_name: str
) -> None:
    transactions = Transactions(make_engine(empty_database_url, pool_size=2, application=unique_name))
    calls = []

    def work(connection: Connection) -> None:
        calls.append(connection)
        _end_connections(stack, unique_name)
        connection.execute(text("SELECT 1"))

    with pytest.raises(StoreUnavailable):
        transactions.transact(work)
    assert len(calls) == 1
    transactions.engine.dispose()
