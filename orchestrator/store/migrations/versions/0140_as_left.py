"""Whether a task's row was as its worker had left it when its last commit came; a commit that asks and tells less."""

from __future__ import annotations

from alembic import op

from orchestrator.store.functions import source_of

revision = "0140"
down_revision = "0130"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column, and the function in place of the one before, which no released worker calls."""
    op.execute("ALTER TABLE tasks ADD COLUMN as_left boolean NOT NULL DEFAULT false")
    op.execute("DROP FUNCTION IF EXISTS commit_step_1")
    op.execute(source_of("commit_steps_1"))


def downgrade() -> None:
    """Remove them; 0130 has no function that commits any more."""
    op.execute("DROP FUNCTION commit_steps_1")
    op.execute("ALTER TABLE tasks DROP COLUMN as_left")
