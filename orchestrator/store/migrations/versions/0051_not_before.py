"""When a task's first step may begin."""

from __future__ import annotations

from alembic import op

revision = "0051"
down_revision = "0040"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; it needs no rewrite."""
    op.execute("ALTER TABLE tasks ADD COLUMN not_before timestamptz")


def downgrade() -> None:
    """Remove it."""
    op.execute("ALTER TABLE tasks DROP COLUMN not_before")
