"""Who settled a delegation whose outcome was unknown."""

from __future__ import annotations

from alembic import op

revision = "0030"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; it needs no rewrite."""
    op.execute("ALTER TABLE delegations ADD COLUMN settled_by text")


def downgrade() -> None:
    """Remove it."""
    op.execute("ALTER TABLE delegations DROP COLUMN settled_by")
