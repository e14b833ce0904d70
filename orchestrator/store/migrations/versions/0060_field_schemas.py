"""JSON Schemas of required fields, beside the context whose shape was promised."""

from __future__ import annotations

from alembic import op

revision = "0060"
down_revision = "0052"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add a column with a constant default: no row is rewritten."""
    op.execute("ALTER TABLE task_contexts ADD COLUMN field_schemas jsonb NOT NULL DEFAULT '{}'")


def downgrade() -> None:
    """Remove it; any value fills any field again."""
    op.execute("ALTER TABLE task_contexts DROP COLUMN field_schemas")
