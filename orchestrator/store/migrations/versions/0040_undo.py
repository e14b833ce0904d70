"""Undo: compensations beside delegations; who asked for it and how it is to end, with the task."""

from __future__ import annotations

from alembic import op

revision = "0040"
down_revision = "0050"
branch_labels = None
depends_on = None

TABLES = """
ALTER TABLE tasks ADD COLUMN undo jsonb, ADD COLUMN steps_before integer NOT NULL DEFAULT 0;

ALTER TABLE delegations ADD COLUMN may_have_acted boolean NOT NULL DEFAULT false;

CREATE TABLE compensations (
    delegation_key text PRIMARY KEY REFERENCES delegations (idempotency_key) ON DELETE CASCADE,
    task_id text NOT NULL,
    step_number integer NOT NULL,
    index integer NOT NULL,
    agent text NOT NULL,
    task text NOT NULL,
    arguments jsonb NOT NULL DEFAULT '{}',
    idempotency_key text NOT NULL UNIQUE,
    state text NOT NULL CHECK (state IN ('pending', 'in_flight', 'succeeded', 'failed', 'unknown')),
    attempts integer NOT NULL DEFAULT 0,
    sent_at timestamptz,
    deadline_at timestamptz,
    remote_url text,
    reply jsonb,
    error_code text,
    error text,
    created_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz
);
CREATE INDEX compensations_of_task ON compensations (task_id);
"""


def upgrade() -> None:
    """Add the table and the columns."""
    op.execute(TABLES)


def downgrade() -> None:
    """Remove them; what was undone is forgotten."""
    op.execute(
        "DROP TABLE compensations; ALTER TABLE delegations DROP COLUMN may_have_acted; "
        "ALTER TABLE tasks DROP COLUMN undo, DROP COLUMN steps_before"
    )
