"""What a task has spent and reserved, what its budget was raised by, and what its steps tried in vain."""

from __future__ import annotations

from alembic import op

revision = "0020"
down_revision = "0032"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add columns with constant defaults: no row is rewritten."""
    op.execute("""
        ALTER TABLE tasks
            ADD COLUMN spent_delegations integer NOT NULL DEFAULT 0,
            ADD COLUMN spent_tokens bigint NOT NULL DEFAULT 0,
            ADD COLUMN spent_money numeric NOT NULL DEFAULT 0,
            ADD COLUMN reserved_tokens bigint NOT NULL DEFAULT 0,
            ADD COLUMN reserved_money numeric NOT NULL DEFAULT 0,
            ADD COLUMN budget_raised jsonb NOT NULL DEFAULT '{}',
            ADD COLUMN idle_steps integer NOT NULL DEFAULT 0
    """)
    op.execute("ALTER TABLE steps ADD COLUMN tried jsonb NOT NULL DEFAULT '[]'")


def downgrade() -> None:
    """Remove them; what was spent is forgotten."""
    op.execute("ALTER TABLE steps DROP COLUMN tried")
    op.execute("""
        ALTER TABLE tasks DROP COLUMN spent_delegations, DROP COLUMN spent_tokens, DROP COLUMN spent_money,
            DROP COLUMN reserved_tokens, DROP COLUMN reserved_money, DROP COLUMN budget_raised,
            DROP COLUMN idle_steps
    """)
