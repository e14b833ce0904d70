"""A function that claims a step in one round trip, and room for what steps change."""

from __future__ import annotations

from alembic import op

from orchestrator.store.functions import source_of

revision = "0100"
down_revision = "0091"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create it; workers of the version before do not call it."""
    op.execute(source_of("claim_step_1"))
    # Rows that change with each step find room beside themselves: no index has to be told where they went.
    op.execute("ALTER TABLE tasks SET (fillfactor = 70)")
    op.execute("ALTER TABLE task_contexts SET (fillfactor = 70)")


def downgrade() -> None:
    """Remove them."""
    op.execute("DROP FUNCTION claim_step_1")
    op.execute("ALTER TABLE tasks RESET (fillfactor)")
    op.execute("ALTER TABLE task_contexts RESET (fillfactor)")
