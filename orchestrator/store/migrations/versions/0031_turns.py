"""Turns: what a task has gained by waiting, where its doorbell stands, and indexes that find whose turn it is."""

from __future__ import annotations

from alembic import op

revision = "0031"
down_revision = "0006"
branch_labels = None
depends_on = None

STATEMENTS = """
ALTER TABLE tasks
    ADD COLUMN aged smallint NOT NULL DEFAULT 0,
    ADD COLUMN lane smallint NOT NULL DEFAULT 0,
    ADD COLUMN ready_at timestamptz,
    ADD COLUMN rung_as smallint;
CREATE INDEX tasks_turn ON tasks (
    coalesce(tenant, ''),
    priority,
    (CASE WHEN state IN ('processing', 'compensating') OR (rings > 0 AND state IN ('received', 'waiting')) THEN 0
          WHEN state = 'received' THEN 2 ELSE 1 END),
    due_at)
    WHERE state IN ('received', 'processing', 'waiting', 'compensating') AND NOT paused AND due_at IS NOT NULL;
CREATE INDEX tasks_in_flight ON tasks (coalesce(tenant, ''), lane)
    WHERE NOT paused AND (state IN ('processing', 'compensating') OR (rings > 0 AND state IN ('received', 'waiting')));
"""


def upgrade() -> None:
    """Add them."""
    op.execute(STATEMENTS)


def downgrade() -> None:
    """Remove them."""
    op.execute("DROP INDEX tasks_turn, tasks_in_flight")
    op.execute("ALTER TABLE tasks DROP COLUMN aged, DROP COLUMN lane, DROP COLUMN ready_at, DROP COLUMN rung_as")
