"""Questions to people, and which event ended which wait."""

from __future__ import annotations

from alembic import op

revision = "0050"
down_revision = "0020"
branch_labels = None
depends_on = None

TABLES = """
CREATE TABLE questions (
    task_id text NOT NULL REFERENCES tasks ON DELETE CASCADE,
    ref text NOT NULL,
    kind text NOT NULL CHECK (kind IN ('question', 'approval', 'agent')),
    step_number integer NOT NULL,
    index integer,
    question text NOT NULL,
    choices jsonb NOT NULL DEFAULT '[]',
    schema jsonb,
    field text,
    fields jsonb NOT NULL DEFAULT '[]',
    who text,
    timeout_at timestamptz,
    on_timeout text NOT NULL DEFAULT 'ask',
    timeout_code text NOT NULL DEFAULT 'no_answer',
    escalate_to text,
    escalate_at timestamptz,
    escalated_at timestamptz,
    answer_url text,
    state text NOT NULL DEFAULT 'open'
        CHECK (state IN ('open', 'answered', 'settled', 'timed_out', 'withdrawn')),
    answer jsonb,
    answered_by text,
    why text,
    asked_at timestamptz NOT NULL DEFAULT now(),
    answered_at timestamptz,
    PRIMARY KEY (task_id, ref)
);
CREATE INDEX questions_open ON questions (asked_at, task_id) WHERE state = 'open';

ALTER TABLE inbox ADD COLUMN ended_wait_of integer;
CREATE INDEX inbox_events ON inbox (task_id, id) WHERE state IN ('pending', 'early', 'merged');
"""


def upgrade() -> None:
    """Make the table, the column and their indexes."""
    op.execute(TABLES)


def downgrade() -> None:
    """Remove them; questions and their answers are lost."""
    op.execute("DROP TABLE questions; DROP INDEX inbox_events; ALTER TABLE inbox DROP COLUMN ended_wait_of")
