"""Delegations that run by themselves: a lease, a clock and a doorbell of their own; a task's policy for failures."""

from __future__ import annotations

from alembic import op

revision = "0032"
down_revision = "0031"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add columns with constant defaults: no table is rewritten, and workers of the version before go on."""
    op.execute(
        """
        ALTER TABLE delegations
            ADD COLUMN epoch bigint NOT NULL DEFAULT 0,
            ADD COLUMN lease_owner text,
            ADD COLUMN lease_until timestamptz,
            ADD COLUMN lost_leases integer NOT NULL DEFAULT 0,
            ADD COLUMN due_at timestamptz,
            ADD COLUMN woken boolean NOT NULL DEFAULT false,
            ADD COLUMN rings integer NOT NULL DEFAULT 0,
            ADD COLUMN parked boolean NOT NULL DEFAULT false;
        CREATE INDEX delegations_due ON delegations (due_at) WHERE due_at IS NOT NULL;
        ALTER TABLE tasks ADD COLUMN partial_failure text CHECK (partial_failure IN ('all', 'any', 'collect'));
        """
    )


def downgrade() -> None:
    """Remove them."""
    op.execute(
        """
        ALTER TABLE tasks DROP COLUMN partial_failure;
        DROP INDEX delegations_due;
        ALTER TABLE delegations DROP COLUMN epoch, DROP COLUMN lease_owner, DROP COLUMN lease_until,
            DROP COLUMN lost_leases, DROP COLUMN due_at, DROP COLUMN woken, DROP COLUMN rings, DROP COLUMN parked;
        """
    )
