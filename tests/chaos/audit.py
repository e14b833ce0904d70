"""What became of it all: the broker's topics, the tables, the agents' ledger and the logs, held against one another.

What was asked is read from the topic itself, what is right is computed (`cast.expected`): no part of the product is
believed.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import psycopg2
import psycopg2.extras

from orchestrator.store import PostgresStore, make_engine
from tests.chaos import accounts
from tests.chaos.cast import BY_NAME, Kind, expected
from tests.chaos.person import People
from tests.chaos.traffic import read_topic
from tests.chaos.world import World


@dataclass
class Verdict:
    """The counts, and a sentence for each thing that is wrong."""

    tasks_in: int = 0
    finished: int = 0
    """Ended as they should."""
    undone: int = 0
    """Of these: failed or canceled, and what they did was taken back."""
    canceled: int = 0
    parked_unknown: int = 0
    """Tasks that waited for a person, since an agent neither honours keys nor offers a look-up."""
    failed: int = 0
    lost: int = 0
    taken_twice: int = 0
    finished_twice: int = 0
    effects: int = 0
    effects_doubled: int = 0
    undos_wrong: int = 0
    contexts_wrong: int = 0
    versions_wrong: int = 0
    updates_wrong: int = 0
    accounts_wrong: int = 0
    sorts: dict[str, int] = field(default_factory=dict)
    """How much there was of what has an account of its own."""
    dead_letters: int = 0
    dead_letters_wrong: int = 0
    broker_lost: int = 0
    steps: int = 0
    parallel: int = 0
    """Of these with several calls at once."""
    commits_fenced: int = 0
    doorbells_refused: int = 0
    calls_absorbed: int = 0
    looked_up: int = 0
    late_replies: int = 0
    longest_stall: float = 0.0
    seconds_to_quiet: float | None = None
    seconds_to_normal: float | None = None
    """From the last fault until nobody waited for the product to recover from it."""
    normal_within: dict[str, str] = field(default_factory=dict)
    """What that may be at most for tasks and for the bridge, and how it comes about."""
    waited_for: dict[str, float] = field(default_factory=dict)
    """Until how many seconds after the last fault somebody waited for what."""
    moving_at_first: int = 0
    """Tasks and calls on their way when the last fault was over."""
    load: float = 0.0
    """Processes that wanted a processor then, for each that there is: above 1 all times are the machine's as well."""
    errors_logged: dict[str, int] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)
    own_ends: dict[str, int] = field(default_factory=dict)
    """Processes that ended without being told to."""
    complaints: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether the promise was kept."""
        return not self.complaints and self.seconds_to_quiet is not None

    def complain(self, about: str) -> None:
        """Note something that is wrong."""
        self.complaints.append(about)


def last_movement(database_url: str) -> datetime:
    """When a task last changed."""
    connection = psycopg2.connect(database_url)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute("SELECT coalesce(max(created_at), now()) FROM outbox")
            (at,) = cursor.fetchone() or (datetime.now(UTC),)
            found: datetime = at
            return found
    finally:
        connection.close()


class Audit:
    """Reads everything once, then judges."""

    def __init__(self, world: World, people: People, confirmed: Sequence[tuple[str, int, int]]) -> None:
        servers = world.servers
        self.world = world
        self.people = people
        self.confirmed = set(confirmed)
        self.records = {topic: read_topic(servers.kafka, servers.topic(topic)) for topic in ("tasks", "events")}
        self.published = [json.loads(one.value) for one in read_topic(servers.kafka, servers.topic("updates"))]
        self.entries = world.witness.ledger()
        with psycopg2.connect(servers.database_url) as connection:
            self.tasks = _rows(
                connection, "SELECT t.*, c.context, c.version FROM tasks t JOIN task_contexts c USING (task_id)"
            )
            self.delegations = _rows(connection, "SELECT * FROM delegations")
            self.inbox = _rows(connection, "SELECT * FROM inbox")
            self.letters = _rows(connection, "SELECT * FROM dead_letters")
            self.updates = _rows(connection, "SELECT * FROM outbox WHERE kind = 'update' ORDER BY id")
            self.restores = _rows(connection, "SELECT * FROM restores")
            self.steps = _rows(connection, "SELECT task_id, step_number, started_at FROM steps")
        connection.close()
        self.verdict = Verdict()

    def judge(self) -> Verdict:
        """Hold everything against everything."""
        self._records()
        self._tasks()
        self._effects()
        self._updates()
        self._versions()
        self._accounts()
        self._logs()
        return self.verdict

    # -- what came in

    def _records(self) -> None:
        there = {(r.topic, r.partition, r.offset) for records in self.records.values() for r in records}
        self.verdict.broker_lost = len(self.confirmed - there)
        if self.verdict.broker_lost:
            self.verdict.complain(f"the broker lost {self.verdict.broker_lost} records that it had confirmed")
        taken = Counter((row["topic"], row["partition"], row["record_offset"]) for row in self.inbox)
        # A record under a known message_id leaves no row: it is recognised, and that is all.
        marks = {(row["topic"], row["message_id"]) for row in self.inbox}
        marked = {
            (r.topic, r.partition, r.offset)
            for records in self.records.values()
            for r in records
            if (message := _message(r.value)) and (r.topic, message.get("message_id", "")) in marks
        }
        if unread := there - set(taken) - marked:
            self.verdict.lost += len(unread)
            self.verdict.complain(f"records never taken in: {_some(unread)}")
        if self.restores:
            self.verdict.complain(f"PostgreSQL was taken to be older, which it never was: {self.restores[0]['why']}")
        if twice := [place for place, count in taken.items() if count > 1]:
            self.verdict.complain(f"records taken in twice: {_some(twice)}")
        asked, bad = _asked(self.records["tasks"])
        self.verdict.tasks_in = asked.total()
        self.asked = asked
        found = Counter((row["topic"], row["partition"], row["record_offset"]) for row in self.letters)
        self.verdict.dead_letters = found.total()
        if wrong := (found - bad) + (bad - found):
            self.verdict.dead_letters_wrong = wrong.total()
            self.verdict.complain(f"dead letters missing or too many: {_some(wrong)}")

    # -- tasks

    def _tasks(self) -> None:
        by_order: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for task in self.tasks:
            by_order[task["context"]["collected_data"].get("order", "")].append(task)
        for order, count in self.asked.items():
            if (missing := count - len(by_order[order])) > 0:
                self.verdict.lost += missing
                self.verdict.complain(f"order {order}: {missing} tasks were never accepted")
        for order, tasks in by_order.items():
            if (surplus := len(tasks) - self.asked[order]) > 0:
                self.verdict.taken_twice += surplus
                self.verdict.complain(f"order {order}: {surplus} tasks more than were asked")
            for task in tasks:
                self._task(order, task)
        self.verdict.steps = len(self.steps)
        calls = Counter((row["task_id"], row["step_number"]) for row in self.delegations)
        self.verdict.parallel = sum(count > 1 for count in calls.values())

    def _task(self, order: str, task: Mapping[str, Any]) -> None:
        data, name = task["context"]["collected_data"], task["task_id"]
        right = expected(order, task["required_fields"])
        whole = task["state"] == "completed"
        if data != right if whole else not data.items() <= {**right, "approval": f"approval of {order}"}.items():
            self.verdict.contexts_wrong += 1
            self.verdict.complain(f"{name} ({task['state']}): knows {data}, right is {right}")
        if task["context"]["current_state"] != task["state"]:
            self.verdict.contexts_wrong += 1
            self.verdict.complain(f"{name}: is {task['state']}, its context says {task['context']['current_state']}")
        if task["state"] in self._rightly(task):
            self.verdict.finished += 1
            self.verdict.canceled += task["state"] == "canceled"
            self.verdict.undone += task["undo"] is not None
        elif task["state"] in {"completed", "failed", "canceled"}:
            self.verdict.failed += 1
            self.verdict.complain(f"{name} ended as {task['state']}: {task['reason_code']}: {task['reason']}")
        else:
            self.verdict.lost += 1
            self.verdict.complain(
                f"{name} never ended: {task['state']}, waits for {task['waits_for']}, due {task['due_at']}, "
                f"lease until {task['lease_until']}, step {task['next_step']}, reason {task['reason']}"
            )

    def _rightly(self, task: Mapping[str, Any]) -> set[str]:
        """How this task may have ended."""
        if task["task_id"] in self.people.ended:
            return {"canceled"}
        ends = accounts.right_ends(task)
        return ends | {"canceled"} if task["task_id"] in self.people.canceled else ends

    # -- effects

    def _undos(self, of_task: Mapping[tuple[str, str], int]) -> None:
        """Of a task that was to be undone everything was taken back; of no other anything."""
        for task in self.tasks:
            undoes = task["state"] == "failed" or (
                task["state"] == "canceled" and self.people.canceled.get(task["task_id"], False)
            )
            for name in (role.name for role in BY_NAME.values() if f"{role.name}/undo" in BY_NAME):
                done = of_task.get((task["task_id"], name), 0)
                undone = of_task.get((task["task_id"], f"{name}/undo"), 0)
                if undone != (done if undoes else 0):
                    self.verdict.undos_wrong += 1
                    self.verdict.complain(
                        f"{name} acted {done} times for {task['task_id']} ({task['state']}) and undid {undone} times"
                    )
        outputs = {(entry["agent"], entry["key"]): entry["output"] for entry in self.entries}
        for (agent, key), output in outputs.items():
            name = agent.removesuffix("/undo")
            if name != agent and output is not None:
                did = outputs.get((name, key.removesuffix(":undo")))
                if did is None or output["undone"] != BY_NAME[agent].value(did):
                    self.verdict.undos_wrong += 1
                    self.verdict.complain(f"{agent} took back under {key} what {name} never did")

    def _effects(self) -> None:
        of_task: Counter[tuple[str, str]] = Counter()
        of_key: Counter[str] = Counter()
        for entry in self.entries:
            self.verdict.calls_absorbed += entry["absorbed"]
            self.verdict.looked_up += entry["looked_up"]
            if BY_NAME[entry["agent"]].kind is not Kind.PURE:
                of_task[entry["task_id"], entry["agent"]] += entry["effects"]
                of_key[entry["key"]] += entry["effects"]
        self.verdict.effects = of_key.total()
        for (task_id, agent), effects in of_task.items():
            if effects > 1 and task_id not in self.people.restarted:
                self.verdict.effects_doubled += effects - 1
                calls = [entry for entry in self.entries if (entry["task_id"], entry["agent"]) == (task_id, agent)]
                self.verdict.complain(f"{agent} acted {effects} times for {task_id}: {calls}")
        self._undos(of_task)
        for delegation in self.delegations:
            key, role = delegation["idempotency_key"], BY_NAME[delegation["agent"]]
            if role.kind is not Kind.PURE and delegation["state"] in {"succeeded", "compensated"} and not of_key[key]:
                self.verdict.complain(f"{role.name} never acted under {key}, yet its delegation succeeded")

    # -- what was told

    def _updates(self) -> None:
        ends = Counter(row["task_id"] for row in self.updates if row["body"]["state"] == "completed")
        for task_id, count in ends.items():
            if count > 1 + self.people.restarted[task_id]:
                self.verdict.finished_twice += count - 1
                self.verdict.complain(f"{task_id} was told to be completed {count} times")
        seen: dict[str, list[int]] = defaultdict(list)
        for update in self.published:
            number = int(update["update_id"].partition("-")[0])
            if number not in seen[update["task_id"]]:
                seen[update["task_id"]].append(number)
        written: dict[str, list[int]] = defaultdict(list)
        for row in self.updates:
            written[row["task_id"]].append(row["id"])
        for task_id, ids in written.items():
            if seen[task_id] != ids:
                self.verdict.updates_wrong += 1
                self.verdict.complain(f"{task_id}: the outbox has updates {ids}, the topic {seen[task_id]}")
        of_tasks = [rows for rows in _by_task(self.updates) if rows[0]["task_id"] not in self.people.paused]
        self.verdict.longest_stall = max(map(_longest_gap, of_tasks), default=0.0)

    def _accounts(self) -> None:
        books = accounts.Books(self.tasks, self.delegations, self.steps, self.updates, self.entries)
        for complaint in accounts.complaints(books):
            self.verdict.accounts_wrong += 1
            self.verdict.complain(complaint)
        self.verdict.sorts = accounts.counts(books) | {"tasks begun anew by a person": len(self.people.restarted)}

    def _versions(self) -> None:
        store = PostgresStore(make_engine(self.world.servers.database_url))
        try:
            for task in self.tasks:
                versions = [number for number, _, _ in store.versions(task["task_id"])]
                rebuilt = store.context(task["task_id"], task["version"])
                if (
                    versions != list(range(1, task["version"] + 1))
                    or dict(rebuilt.collected_data) != task["context"]["collected_data"]
                ):
                    self.verdict.versions_wrong += 1
                    self.verdict.complain(f"{task['task_id']}: versions {versions} do not lead to its context")
        finally:
            store.close()

    def _logs(self) -> None:
        events: Counter[str] = Counter()
        errors: Counter[str] = Counter()
        for _, line in self.world.log_lines():
            event = str(line.get("event", ""))
            events[event] += 1
            if line.get("level") in {"ERROR", "CRITICAL"}:
                # Libraries call a lost connection an error; of ours each one counts.
                logger = str(line.get("logger", ""))
                errors[event if logger.startswith(("orchestrator", "bridge")) else f"({logger})"] += 1
        self.verdict.commits_fenced = events["step.fenced"] + events["delegation.fenced"]
        self.verdict.doorbells_refused = events["step.skipped"] + events["delegation.skipped"]
        self.verdict.late_replies = events["delegation.late_reply"]
        self.verdict.errors_logged = dict(errors)


def _asked(records: Iterable[Any]) -> tuple[Counter[str], Counter[tuple[str, int, int]]]:
    """How many tasks of each order the records ask for, and which of them are dead letters."""
    asked: Counter[str] = Counter()
    bad: Counter[tuple[str, int, int]] = Counter()
    known: dict[str, str] = {}
    for record in sorted(records, key=lambda one: (one.partition, one.offset)):
        place = (record.topic, record.partition, record.offset)
        message = _message(record.value)
        if message is None:
            bad[place] += 1
            continue
        description = message["task_description"]
        names = [message.get("task_id"), message.get("message_id"), str(place)]
        identity = next(name for name in names if name is not None)
        if identity not in known:
            known[identity] = description
            asked[message["event_data"]["order"]] += 1
        elif known[identity] != description:
            bad[place] += 1
    return asked, bad


def _message(value: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(value)
    except ValueError:
        return None
    return found if isinstance(found, dict) and "event_data" in found else None


def _longest_gap(updates: Sequence[Mapping[str, Any]]) -> float:
    """Seconds between two updates of a task which did not wait for an event or a person meanwhile."""
    longest = 0.0
    for before, after in pairwise(updates):
        if before["body"]["waits_for"] not in {"event", "person"}:
            longest = max(longest, (after["created_at"] - before["created_at"]).total_seconds())
    return longest


def _by_task(updates: Iterable[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    found: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for update in updates:
        found[update["task_id"]].append(update)
    return list(found.values())


def _rows(connection: Any, query: str) -> list[dict[str, Any]]:
    with connection.cursor(cursor_factory=psycopg2.extras.RealDictCursor) as cursor:
        cursor.execute(query)
        return [dict(row) for row in cursor.fetchall()]


def _some(items: Iterable[Any]) -> str:
    found = sorted(items)
    return ", ".join(map(str, found[:5])) + (f" and {len(found) - 5} more" if len(found) > 5 else "")
