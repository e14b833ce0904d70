"""What each step asked the planner, and the agents and event types that it was offered."""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0030"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add a column that older workers leave empty, and the table it refers to."""
    op.execute("ALTER TABLE steps ADD COLUMN asked jsonb")
    op.execute("""
        CREATE TABLE offers (
            digest text PRIMARY KEY,
            entry jsonb NOT NULL,
            first_seen timestamptz NOT NULL DEFAULT now()
        )
    """)


def downgrade() -> None:
    """Remove them; steps forget what they asked."""
    op.execute("DROP TABLE offers")
    op.execute("ALTER TABLE steps DROP COLUMN asked")
