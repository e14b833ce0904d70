"""A batch of records becomes accepted messages: decode, one commit, the source told, doorbells rung.

The order is the promise: Kafka is told only what PostgreSQL has committed, and doorbells ring last. Whatever fails
between two of these is repaired: records are read again and recognised, doorbells are rung by the sweep.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from bridge.dead_letter import BadInARow
from bridge.decode import Decoder
from orchestrator.domain.message import Record
from orchestrator.errors import ConfigurationError, RetryableError
from orchestrator.fault_points import FaultPoint, reach
from orchestrator.flow.accept import Accept, Accepted
from orchestrator.flow.ports import Intake, Invalid, Received

log = logging.getLogger(__name__)

COMMIT_BYTES = 16 * 1024 * 1024
"""Bytes of records that one commit takes in at most (a single larger record alone)."""

Safe = Callable[[Sequence[Record]], None]
"""Called with records that PostgreSQL has committed: now the source may forget them."""


Confirmed = Callable[[], Mapping[tuple[str, int], int]]
"""Gives the next offset of each (topic, partition) as PostgreSQL has confirmed it."""


class BatchIntake:
    """Takes batches in."""

    def __init__(self, decoder: Decoder, accept: Accept, bad_in_a_row: BadInARow) -> None:
        self._decoder = decoder
        self._accept = accept
        self._bad_in_a_row = bad_in_a_row

    def take(self, records: Sequence[Record], safe: Safe, confirmed: Confirmed = dict) -> Counter[Intake]:
        """Take the records in, in their order; says what became of how many.

        Raises:
            OffsetsForgotten: PostgreSQL knows less than it has ``confirmed``; as with `StoreUnavailable`.
            StoreUnavailable: PostgreSQL is away; what was not given to ``safe`` is to be read again.
            TooManyBadRecords: a flood; what was given to ``safe`` is set aside, what follows was not taken.
        """
        outcomes: Counter[Intake] = Counter()
        waiting = [Received(record, self._decoder.decode(record)) for record in records]
        while waiting:
            size = min(_fitting_bytes(waiting), self._bad_in_a_row.fitting(waiting))
            reach(FaultPoint.BRIDGE_DECODED)
            batch, accepted = self._commit(waiting[:size], dict(confirmed()))
            reach(FaultPoint.BRIDGE_COMMITTED)
            waiting = waiting[size:]
            safe([item.record for item in batch])
            reach(FaultPoint.BRIDGE_OFFSETS_SENT)
            accepted.ring()
            outcomes.update(item.outcome for item in accepted.taken)
            _tell(batch, accepted)
            self._bad_in_a_row.note(batch, accepted.taken)
        return outcomes

    def _commit(
        self, batch: Sequence[Received], confirmed: dict[tuple[str, int], int]
    ) -> tuple[Sequence[Received], Accepted]:
        try:
            return batch, self._accept.take_in(batch, confirmed)
        except (RetryableError, ConfigurationError):
            raise
        except Exception as error:  # noqa: BLE001  # whatever one record does to the store, the others must pass it
            if len(batch) == 1:
                return self._set_aside(batch[0], error, confirmed)
            log.warning("intake.batch_refused", extra={"records": len(batch), "why": repr(error), "then": "halved"})
        middle = len(batch) // 2
        first, first_accepted = self._commit(batch[:middle], confirmed)
        known = {(item.record.topic, item.record.partition): item.record.offset + 1 for item in first}
        second, second_accepted = self._commit(batch[middle:], confirmed | known)
        return [*first, *second], _Joined(first_accepted, second_accepted)

    def _set_aside(
        self, item: Received, error: Exception, confirmed: dict[tuple[str, int], int]
    ) -> tuple[Sequence[Received], Accepted]:
        record = item.record
        log.error(
            "intake.record_refused",
            extra={"topic": record.topic, "partition": record.partition, "offset": record.offset, "why": repr(error)},
        )
        reason = Invalid("store_refused", f"PostgreSQL does not take it: {_one_line(error)}")
        if isinstance(item.message, Invalid):
            raise error  # not even as a dead letter: the store itself is broken
        bad = [Received(record, reason)]
        return bad, self._accept.take_in(bad, confirmed)


class _Joined(Accepted):
    """The two halves of a batch that had to be split."""

    def __init__(self, first: Accepted, second: Accepted) -> None:
        super().__init__([*first.taken, *second.taken], None)
        self._halves = (first, second)

    def ring(self) -> None:
        for half in self._halves:
            half.ring()


def _fitting_bytes(batch: Sequence[Received]) -> int:
    total = 0
    for number, item in enumerate(batch):
        total += len(item.record.value or b"") + len(item.record.key or b"")
        if total > COMMIT_BYTES and number:
            return number
    return len(batch)


def _tell(batch: Sequence[Received], accepted: Accepted) -> None:
    for item, result in zip(batch, accepted.taken, strict=True):
        if result.outcome in (Intake.INVALID, Intake.CONFLICT, Intake.ANSWER_REFUSED, Intake.REPLY_REFUSED):
            bad = item.message if isinstance(item.message, Invalid) else None
            log.warning(
                "intake.dead_letter",
                extra={
                    "topic": item.record.topic,
                    "partition": item.record.partition,
                    "offset": item.record.offset,
                    "reason": bad.reason if bad else result.outcome.value,
                    "detail": bad.detail if bad else result.reason,
                    "task_id": result.task_id,
                },
            )
        elif result.outcome is Intake.EVENT_LATE:
            log.info("intake.event_late", extra={"task_id": result.task_id, "why": result.reason})


def _one_line(error: Exception) -> str:
    text = str(error).split("\n", 1)[0]
    return f"{type(error).__name__}: {text}"[:500].encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")
