"""Cancellations: calls under way that are not wanted any more, and what their agents said to that."""

from __future__ import annotations

from alembic import op

revision = "0110"
down_revision = "0100"
branch_labels = None
depends_on = None

TABLES = """
CREATE TABLE cancellations (
    delegation_key text PRIMARY KEY REFERENCES delegations (idempotency_key) ON DELETE CASCADE,
    task_id text NOT NULL,
    step_number integer NOT NULL,
    index integer NOT NULL,
    agent text NOT NULL,
    reason text NOT NULL,
    state text NOT NULL,
    attempts integer NOT NULL DEFAULT 0,
    epoch bigint NOT NULL DEFAULT 0,
    due_at timestamptz,
    woken boolean NOT NULL DEFAULT true,
    rings integer NOT NULL DEFAULT 1,
    error text,
    asked_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz
);
CREATE INDEX cancellations_of_task ON cancellations (task_id);
CREATE INDEX cancellations_due ON cancellations (due_at) WHERE due_at IS NOT NULL;
"""


def upgrade() -> None:
    """Add the table."""
    op.execute(TABLES)


def downgrade() -> None:
    """Remove it; agents that were not told yet are not told any more."""
    op.execute("DROP TABLE cancellations")
