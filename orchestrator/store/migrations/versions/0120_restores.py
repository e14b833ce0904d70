"""Restores: what is kept to notice that PostgreSQL is older than it was, and which tasks are doubted for it."""

from __future__ import annotations

from alembic import op

from orchestrator.store.functions import source_of

revision = "0120"
down_revision = "0110"
branch_labels = None
depends_on = None

TABLES = """
CREATE TABLE server_state (
    the_one boolean PRIMARY KEY DEFAULT true CHECK (the_one),
    incarnation text NOT NULL,
    system_identifier text,
    timeline text,
    database_oid bigint NOT NULL,
    table_oid bigint NOT NULL,
    noted_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE restores (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    noticed_at timestamptz NOT NULL DEFAULT now(),
    why text NOT NULL,
    who text NOT NULL,
    incarnation text NOT NULL,
    tasks integer NOT NULL DEFAULT 0
);
CREATE TABLE read_before (
    topic text NOT NULL,
    partition integer NOT NULL,
    below bigint NOT NULL,
    PRIMARY KEY (topic, partition)
);
ALTER TABLE tasks ADD COLUMN doubted_at timestamptz;
ALTER TABLE tasks ADD COLUMN trusted_at timestamptz;
ALTER TABLE delegations ADD COLUMN cleared_at timestamptz;
ALTER TABLE compensations ADD COLUMN cleared_at timestamptz;
ALTER TABLE offsets ADD COLUMN by_hand boolean NOT NULL DEFAULT false;
CREATE INDEX tasks_doubted ON tasks (doubted_at) WHERE doubted_at IS NOT NULL;
"""


def upgrade() -> None:
    """Add them."""
    op.execute(TABLES)
    for name in ("server_signals_1", "server_guard_1"):
        op.execute(source_of(name))


def downgrade() -> None:
    """Remove them; tasks are doubted no more."""
    op.execute("DROP FUNCTION server_signals_1, server_guard_1")
    op.execute("DROP INDEX tasks_doubted")
    op.execute("ALTER TABLE offsets DROP COLUMN by_hand")
    op.execute("ALTER TABLE compensations DROP COLUMN cleared_at")
    op.execute("ALTER TABLE delegations DROP COLUMN cleared_at")
    op.execute("ALTER TABLE tasks DROP COLUMN doubted_at, DROP COLUMN trusted_at")
    op.execute("DROP TABLE read_before, restores, server_state")
