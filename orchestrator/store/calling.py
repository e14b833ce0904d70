"""Calls of functions in PostgreSQL that share transactions, where several threads make them at the same moment.

Each call is about one task. One that finds things otherwise than its caller thought says so in its answer and raises
nothing, so it undoes no other's. One that waits for a lock for longer than a tenth of a second, or that PostgreSQL
refuses, is run again alone, and so are those that shared its transaction. What is large goes alone at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg2.extensions

from orchestrator.errors import StoreUnavailable
from orchestrator.store.engine import LOCK_TIMEOUT, Transactions
from orchestrator.store.together import Apart, Together

AT_ONCE, MOST = 1, 16
"""Transactions of one kind that a process has under way at most, and calls in each."""


@dataclass(frozen=True, slots=True)
class Rows:
    """A kind of call: one statement in psycopg2's form that gives one row; its calls are named values."""

    statement: str
    durable: bool

    def together(self, cursor: psycopg2.extensions.cursor, calls: Sequence[Mapping[str, Any]]) -> bytes:
        """One statement for several calls."""
        return b" UNION ALL ".join(
            b"SELECT %d AS of_call, one.* FROM (%b) one" % (number, cursor.mogrify(self.statement, values))
            for number, values in enumerate(calls)
        )


@dataclass(frozen=True, slots=True)
class Documents:
    """A kind of call: a function that takes JSON documents in an array, and gives a row for each; calls are these."""

    function: str
    durable: bool

    def together(self, cursor: psycopg2.extensions.cursor, calls: Sequence[bytes]) -> bytes:
        """One statement for several calls."""
        documents = b"[%b]" % b",".join(calls)
        return cursor.mogrify(f"SELECT * FROM {self.function}(%s)", (documents.decode(),))  # noqa: S608  # a name of ours


Kind = Rows | Documents

LARGE = 65_536
"""Bytes of a document that would hold up others."""


class CallPart(Transactions):
    """Base of the parts of the store that call such functions."""

    kinds: dict[Kind, Together[Any, dict[str, Any]]]

    def call(self, kind: Kind, asked: Any) -> dict[str, Any]:
        """Make one call, together with those of other threads or alone.

        Returns:
            Its row, by column.

        Raises:
            StoreUnavailable: PostgreSQL cannot be reached or refuses for now; whether it committed is not known.
            psycopg2.Error: PostgreSQL refuses this very call.
        """
        if isinstance(asked, bytes) and len(asked) > LARGE:
            return self._send(kind, [asked], patient=True)[0]
        if (known := self.kinds.get(kind)) is None:
            known = self.kinds.setdefault(kind, self._calls_of(kind))
        return known.call(asked)

    def _calls_of(self, kind: Kind) -> Together[Any, dict[str, Any]]:
        def together(calls: Sequence[Any]) -> Sequence[dict[str, Any]]:
            try:
                return self._send(kind, calls, patient=False)
            except StoreUnavailable as error:
                if getattr(error.__cause__, "pgcode", None) == LOCK_TIMEOUT:
                    raise Apart from error
                raise

        return Together(together, lambda one: self._send(kind, [one], patient=True)[0], at_once=AT_ONCE, most=MOST)

    def _send(self, kind: Kind, calls: Sequence[Any], *, patient: bool) -> Sequence[dict[str, Any]]:
        rows = self.send(lambda cursor: kind.together(cursor, calls), durable=kind.durable, patient=patient)
        rows.sort(key=lambda row: int(row["of_call"]))
        if [row["of_call"] for row in rows] != list(range(len(calls))):
            raise AssertionError(f"{len(calls)} calls were answered by {[row['of_call'] for row in rows]}")
        return rows
