"""What an older state of PostgreSQL leaves behind: records to be read again, doubted tasks, and a person's trust."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import timedelta
from typing import Any

from psycopg2.extras import RealDictCursor
from sqlalchemy import Connection, Engine

from orchestrator.domain.journal import Dispatch
from orchestrator.domain.restore import RESTORED, Doubts, Restore
from orchestrator.domain.server import Seen
from orchestrator.domain.task import TaskState
from orchestrator.errors import NotAllowed
from orchestrator.store.audit import audit
from orchestrator.store.control import locked
from orchestrator.store.engine import Transactions, jsonb, text
from orchestrator.store.server_watch import ServerWatch, locked_server, mark_restored

_BEHIND = text("""
    SELECT r.topic, r.partition, r.below,
           coalesce((SELECT max(noticed_at) FROM restores) > coalesce(o.updated_at, '-infinity'), false) AS untouched
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(topic text, partition int, below bigint)
    LEFT JOIN offsets o ON o.topic = r.topic AND o.partition = r.partition
    WHERE o.next_offset IS NULL OR (o.next_offset < r.below AND NOT o.by_hand)
    ORDER BY 1, 2
""")
_READ_BEFORE = text("""
    INSERT INTO read_before (topic, partition, below)
    SELECT r.topic, r.partition, r.below
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(topic text, partition int, below bigint)
    ORDER BY 1, 2
    ON CONFLICT (topic, partition) DO UPDATE SET below = greatest(read_before.below, excluded.below)
""")
# What is forgotten wholly is begun again at 0, or the oldest record there is. With a row of its own, so that reading it
# again is told from a restore that comes after; last written long ago, since nothing has been taken in.
_BEGIN_AGAIN = text("""
    INSERT INTO offsets (topic, partition, next_offset, updated_at)
    SELECT r.topic, r.partition, 0, to_timestamp(0)
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(topic text, partition int)
    ORDER BY 1, 2
    ON CONFLICT DO NOTHING
""")
_NEW_TOPICS = text("DELETE FROM read_before WHERE topic = ANY(:topics)")
_LAST = text("SELECT noticed_at, why, who, tasks FROM restores ORDER BY id DESC LIMIT 1")
_OF_TASK = text("""
    SELECT r.noticed_at, r.why, r.who, r.tasks FROM restores r, tasks t
    WHERE t.task_id = :task_id AND r.noticed_at <= t.doubted_at ORDER BY r.id DESC LIMIT 1
""")
_DOUBTED = text("""
    SELECT count(*) AS doubted,
           count(*) FILTER (WHERE state = 'waiting' AND waits_for = 'person' AND EXISTS (
               SELECT FROM delegations d
               WHERE d.task_id = tasks.task_id AND d.step_number = tasks.next_step AND d.parked)) AS waiting
    FROM tasks
    WHERE doubted_at IS NOT NULL AND state IN ('received', 'processing', 'waiting', 'compensating')
""")
_SIGNALS = text("SELECT system IS NOT NULL AS identity, timeline IS NOT NULL AS position FROM server_signals_1()")
_TRUST = text("UPDATE tasks SET doubted_at = NULL, trusted_at = now() WHERE task_id = :task_id")
# Parked for the doubt alone: never sent, as far as the journal knows, and now that is all there is to know.
_UNPARK = text("""
    UPDATE delegations SET state = 'pending', parked = false, may_have_acted = false, error_code = NULL, error = NULL,
        deadline_at = NULL, cleared_at = now()
    WHERE task_id = :task_id AND state = 'unknown' AND parked AND error_code = :code
""")
_WAKE = text("""
    UPDATE tasks SET woken = true, due_at = now() + CAST(:stall AS interval), rings = 0, updated_at = now()
    WHERE task_id = :task_id
""")


class RestorePart(Transactions):
    """What the bridge, `orchestrator doctor` and people do about an older state."""

    stall: timedelta

    def __init__(self, engine: Engine, *, replicas_complete: bool = False) -> None:
        super().__init__(engine)
        self.server_watch = ServerWatch(engine, replicas_complete=replicas_complete, forget=self.forget_rows)
        self.watch = self.server_watch

    def forget_rows(self) -> None:
        """The server may be older than it was: forget which rows it is known to have; see `ServerWatch`."""

    @property
    def seen(self) -> Seen | None:
        """The furthest that this process has seen of the server; None before the first look."""
        return self.server_watch.seen

    def remember(self, told: Seen) -> None:
        """Compare the server with what another process has seen of it, when it is looked at first."""
        self.server_watch.remember(told)

    def compare(self, told: Seen | None) -> None:
        """Look at the server with what another process has seen of it."""
        with self.raw() as connection:
            self.server_watch.look(connection, told)

    def records_forgotten(
        self, below: Mapping[tuple[str, int], int], seen: Collection[Seen | None], *, who: str
    ) -> bool:
        """Records of these (topic, partition) were taken in before, up to these offsets, and are to be read again.

        Tasks that come of them are doubted. That PostgreSQL is older is marked, unless that was done since ``seen``
        (what was seen of the server when these offsets were current; None: not known). Offsets that a person has set
        back are no sign of it. Where the next offset of a partition is not known it is 0 by now. Returns whether
        PostgreSQL is older.
        """
        rows = [{"topic": topic, "partition": place, "below": offset} for (topic, place), offset in below.items()]

        def work(connection: Connection) -> bool:
            with _raw_cursor(connection) as cursor:
                server = locked_server(cursor)
                behind = connection.execute(_BEHIND, {"rows": jsonb(rows)}).mappings().all()
                if not behind:
                    return False
                # Noted since these offsets were current; where that is not known, since PostgreSQL took in the last.
                untouched = all(row["untouched"] for row in behind)
                known = server is not None and all(
                    untouched if one is None else one.incarnation in server.before for one in seen
                )
                if server is not None and not known:
                    first = behind[0]
                    why = (
                        f"of {first['topic']}/{first['partition']} records up to {first['below']} were taken in, and "
                        "it does not know them"
                    )
                    mark_restored(cursor, server, who=who, why=why)
                # After the tasks: an intake that has read the last of them locks in this order too.
                forgotten = [{"topic": r["topic"], "partition": r["partition"], "below": r["below"]} for r in behind]
                connection.execute(_BEGIN_AGAIN, {"rows": jsonb(forgotten)})
                connection.execute(_READ_BEFORE, {"rows": jsonb(forgotten)})
                return True

        older = self.transact(work)
        self.compare(None)  # from now on this is what was seen
        return older

    def topics_made_anew(self, topics: Collection[str]) -> None:
        """These begin at 0 again: none of their records was taken in before."""
        self.transact(lambda connection: connection.execute(_NEW_TOPICS, {"topics": sorted(topics)}))

    def restored_by_hand(self, *, who: str, why: str) -> int:
        """A person says that PostgreSQL is older than it was; how many tasks are doubted. Audited."""

        def work(connection: Connection) -> int:
            with _raw_cursor(connection) as cursor:
                server = locked_server(cursor)
                if server is None:
                    return 0
                tasks = mark_restored(cursor, server, who=who, why=why or f"{who} says so")
                audit(connection, who=who, what="restored", why=why, task_id=None, details={"tasks": tasks})
                return tasks

        tasks = self.transact(work)
        self.compare(None)
        return tasks

    def trust(self, task_id: str, *, who: str, why: str) -> Dispatch | None:
        """A person says that nothing of a task was forgotten; the doorbell where a call waited for that word.

        Raises:
            TaskNotFound: no task has this id.
            NotAllowed: it is not doubted.
        """

        def work(connection: Connection) -> Dispatch | None:
            row = locked(connection, task_id)
            if row["doubted_at"] is None:
                raise NotAllowed(f"task {task_id!r} is not doubted", task_id=task_id)
            connection.execute(_TRUST, {"task_id": task_id})
            freed = connection.execute(_UNPARK, {"task_id": task_id, "code": RESTORED}).rowcount
            details = {"doubted_at": row["doubted_at"].isoformat(), "calls": freed}
            audit(connection, who=who, what="trust", why=why, task_id=task_id, details=details)
            if not freed or row["state"] not in {TaskState.WAITING, TaskState.COMPENSATING}:
                return None
            connection.execute(_WAKE, {"task_id": task_id, "stall": self.stall})
            return Dispatch(task_id, row["next_step"], row["priority"])

        return self.transact(work)

    def restore_of(self, task_id: str) -> Restore | None:
        """Why a task is doubted; None where it is not."""
        return self.transact(lambda connection: _restore(connection.execute(_OF_TASK, {"task_id": task_id}).first()))

    def doubts(self) -> Doubts:
        """How it stands after the last restore."""

        def work(connection: Connection) -> Doubts:
            last = _restore(connection.execute(_LAST).first())
            counts = connection.execute(_DOUBTED).one()
            signals = connection.execute(_SIGNALS).one()
            return Doubts(last, counts.doubted, counts.waiting, signals.identity, signals.position)

        return self.transact(work)


def _restore(row: Any) -> Restore | None:
    return None if row is None else Restore(row.noticed_at, row.why, row.who, row.tasks)


def _raw_cursor(connection: Connection) -> Any:
    """A cursor of psycopg2 inside the transaction of ``connection``."""
    return connection.connection.cursor(cursor_factory=RealDictCursor)
