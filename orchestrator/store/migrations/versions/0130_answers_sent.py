"""Answers that may have left: of a question to a person, when its answer was first about to go to the agent."""

from __future__ import annotations

from alembic import op

revision = "0130"
down_revision = "0120"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; what is answered and not taken up may have been sent by a version that left no mark."""
    op.execute("ALTER TABLE questions ADD COLUMN sent_at timestamptz")
    op.execute("UPDATE questions SET sent_at = answered_at WHERE kind = 'agent' AND state = 'answered'")


def downgrade() -> None:
    """Remove it."""
    op.execute("ALTER TABLE questions DROP COLUMN sent_at")
