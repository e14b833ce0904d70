"""Indexes of what is due whose conditions only they fit, whatever the statistics say.

By those of an idle system the index by state looked as good, and each look at a tenant's turn read all that was alive.
Statements of `orchestrator.store.turns` say these conditions to the letter. Tables are locked while indexes are made.
"""

from __future__ import annotations

from alembic import op

revision = "0143"
down_revision = "0142"
branch_labels = None
depends_on = None

ALIVE = "state IN ('received', 'processing', 'waiting', 'compensating')"
TURN = """
CREATE INDEX tasks_turn ON tasks (
    coalesce(tenant, ''),
    priority,
    (CASE WHEN state IN ('processing', 'compensating') OR (rings > 0 AND state IN ('received', 'waiting')) THEN 0
          WHEN state = 'received' THEN 2 ELSE 1 END),
    due_at)
"""


def upgrade() -> None:
    """Make them anew."""
    op.execute("DROP INDEX tasks_due, tasks_turn")
    op.execute(f"CREATE INDEX tasks_due ON tasks (due_at) WHERE CASE WHEN {ALIVE} THEN NOT paused ELSE false END")
    op.execute(f"{TURN} WHERE CASE WHEN {ALIVE} AND NOT paused THEN due_at IS NOT NULL ELSE false END")


def downgrade() -> None:
    """As they were."""
    op.execute("DROP INDEX tasks_due, tasks_turn")
    op.execute(f"CREATE INDEX tasks_due ON tasks (due_at) WHERE {ALIVE} AND NOT paused")
    op.execute(f"{TURN} WHERE {ALIVE} AND NOT paused AND due_at IS NOT NULL")
