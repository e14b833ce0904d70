"""Indexes by which what is old is found, without a look at what is alive."""

from __future__ import annotations

from alembic import op

revision = "0091"
down_revision = "0060"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add them."""
    op.execute("""
        CREATE INDEX tasks_ended ON tasks (ended_at) WHERE ended_at IS NOT NULL;
        CREATE INDEX inbox_done ON inbox (received_at) WHERE state NOT IN ('pending', 'early');
        CREATE INDEX outbox_published ON outbox (published_at) WHERE published_at IS NOT NULL;
        CREATE INDEX outbox_of_dead_letter ON outbox (dead_letter_id) WHERE dead_letter_id IS NOT NULL;
        CREATE INDEX dead_letters_age ON dead_letters (created_at);
        CREATE INDEX audit_age ON audit (at);
    """)


def downgrade() -> None:
    """Remove them."""
    op.execute(
        "DROP INDEX tasks_ended, inbox_done, outbox_published, outbox_of_dead_letter, dead_letters_age, audit_age"
    )
