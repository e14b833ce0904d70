"""docs/failure-semantics.md marks what `make chaos` strikes with: each mark is true, and nothing is left unmarked."""

from __future__ import annotations

from tests.chaos.agents_program import MOODS
from tests.chaos.plan import STRIKES
from tests.support.processes import ROOT

MARKED = {
    "worker killed, or its machine gone": {"worker.kill"},
    "worker paused for longer than its lease (a stopped container, a long swap)": {"worker.pause"},
    "worker told to stop (SIGTERM, a deploy)": {"worker.deploy"},
    "bridge killed, anywhere": {"bridge.kill", "bridge.pause", "publisher.kill", "publisher.pause"},
    "a second bridge comes or goes": {"bridge.second"},
    "beat killed": {"beat.kill"},
    "Redis emptied, or restarted without its data": {"redis.flush", "redis.restart"},
    "Redis killed, hanging, away": {"redis.kill", "redis.hang"},
    "connections to Redis cut": {"redis.cut"},
    "PostgreSQL killed, restarted, away": {"postgres.kill", "postgres.restart"},
    "connections to PostgreSQL cut": {"postgres.cut"},
    "PostgreSQL at its connection limit": {"postgres.full"},
    "Kafka killed and restarted": {"kafka.kill"},
    "cannot be reached, 429, 503": {"drops first", "busy"},
    "acts, and the reply is lost: connection closed, half a reply, time-out, 500": {
        "acts, drops",
        "acts, half",
        "acts, 500",
    },
    "hangs": {"acts, hangs"},
    "answers late, when another worker has taken over": {"slow", "well"},
    "answers twice": {"twice", "twice later"},
    "its look-up or poll fails": set(),  # `Handler._has_a_fit`
    "refuses, and the task says `on_failure: undo`": set(),  # `cast.Role.refuses`
    "a task paused, resumed, canceled, canceled and undone, begun anew by a person; an answer, a yes, a no": (
        set()  # `plan.draw_deeds` and `bystanders.Answerers`
    ),
    "a record that is no message": set(),  # `plan.draw_arrivals` has these
    "the same record, `message_id` or task again": set(),
    "other content under a known `task_id`": set(),
    "an event before its task": set(),
    "an event after its task has ended": set(),
}
"""First cell of a marked row, and the faults or moods that stand for it."""


def test_what_is_marked_in_the_docs_is_what_the_storm_does() -> None:
    text = (ROOT / "docs" / "failure-semantics.md").read_text(encoding="utf-8")
    marked = {line.split(" | ")[0].removeprefix("| ● ") for line in text.splitlines() if line.startswith("| ● ")}
    assert marked == set(MARKED)
    assert set().union(*MARKED.values()) == {*STRIKES, *MOODS}
