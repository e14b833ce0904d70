"""Agents that reply by an event: the token that a request carries, and the reply that came."""

from __future__ import annotations

from alembic import op

revision = "0052"
down_revision = "0051"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns; they need no rewrite."""
    op.execute("ALTER TABLE delegations ADD COLUMN reply_token text, ADD COLUMN told jsonb")


def downgrade() -> None:
    """Remove them; replies that no step has taken up are lost."""
    op.execute("ALTER TABLE delegations DROP COLUMN reply_token, DROP COLUMN told")
