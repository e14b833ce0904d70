"""The bound on dead letters: single bad records are set aside, a flood of them stops the bridge.

A producer gone wrong, or a bridge pointed at the wrong topic, would otherwise turn everything into dead letters while
all looks well. Counted for each partition, since only there records have an order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from orchestrator.domain.message import Record
from orchestrator.errors import TooManyBadRecords
from orchestrator.flow.ports import Intake, Invalid, Received, Taken

Place = tuple[str, int]


class BadInARow:
    """Counts bad records that follow one another without a good one between them.

    Args:
        limit: as many in one partition are too many (``BRIDGE_BAD_IN_A_ROW``).
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._row: Counter[Place] = Counter()

    def fitting(self, batch: Sequence[Received]) -> int:
        """How many records from the batch's start may be taken before the limit could be exceeded; at least one."""
        row = self._row.copy()
        for number, item in enumerate(batch, 1):
            place = _place(item.record)
            row[place] = row[place] + 1 if isinstance(item.message, Invalid) else 0
            if row[place] >= self._limit:
                return number
        return len(batch)

    def note(self, batch: Sequence[Received], taken: Sequence[Taken]) -> None:
        """Count what was taken.

        Bad records that were read before (after a rebalance or a restore) neither count nor break a row.

        Raises:
            TooManyBadRecords: the limit is reached; all of the batch is safely set aside.
        """
        for item, result in zip(batch, taken, strict=True):
            place = _place(item.record)
            if not isinstance(item.message, Invalid):
                self._row[place] = 0
            elif result.outcome is not Intake.DUPLICATE:
                self._row[place] += 1
                if self._row[place] >= self._limit:
                    raise _flood(item, self._limit)


def _place(record: Record) -> Place:
    return record.topic, record.partition


def _flood(last: Received, limit: int) -> TooManyBadRecords:
    record = last.record
    why = f"{last.message.reason}: {last.message.detail}" if isinstance(last.message, Invalid) else ""
    return TooManyBadRecords(
        f"{limit:,} bad records in a row in topic {record.topic}, partition {record.partition}, "
        f"up to offset {record.offset}; the last one is {why}",
        hint="They are set aside (`orchestrator dead-letter list`) and nothing after them was read. Find out who "
        "produces them, or whether KAFKA_TOPIC_… names the wrong topic; then start the bridge again, it goes on after "
        "them. To pass over more of them, stop all bridges and say "
        "`python -m bridge rewind --skip --topic … --partition … --to-offset …`.",
    )
