"""A claim finds its task by the key, whatever the statistics say; what it takes and gives is the same."""

from __future__ import annotations

from alembic import op

from orchestrator.store.functions import source_of

revision = "0142"
down_revision = "0141"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the function anew, for databases that have it from before; workers may be calling it."""
    op.execute(source_of("claim_step_1").replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION", 1))


def downgrade() -> None:
    """Nothing: who goes back may well claim by the key."""
