"""Functions that claim a step and write its usual commits in one round trip each, and room for what they change."""

from __future__ import annotations

from alembic import op

from orchestrator.store.functions import source_of

revision = "0100"
down_revision = "0091"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create them; workers of the version before do not call them."""
    for name in ("claim_step_1", "commit_step_1"):
        op.execute(source_of(name))
    # Rows that change with each step find room beside themselves: no index has to be told where they went.
    op.execute("ALTER TABLE tasks SET (fillfactor = 70)")
    op.execute("ALTER TABLE task_contexts SET (fillfactor = 70)")


def downgrade() -> None:
    """Remove them."""
    op.execute("DROP FUNCTION claim_step_1, commit_step_1")
    op.execute("ALTER TABLE tasks RESET (fillfactor)")
    op.execute("ALTER TABLE task_contexts RESET (fillfactor)")
