"""Rules of single columns as domains: a table's own are read anew, from their text, by each statement that writes.

The tables are written anew, and locked for as long as that takes. psycopg2 knows no arrays of domains: an ``array_agg``
of such a column has to cast it.
"""

from __future__ import annotations

from alembic import op

revision = "0141"
down_revision = "0140"
branch_labels = None
depends_on = None

DOMAINS = {
    "task_name": ("text", "length(VALUE) BETWEEN 1 AND 200"),
    "task_state": (
        "text",
        "VALUE IN ('received', 'processing', 'waiting', 'compensating', 'completed', 'failed', 'canceled')",
    ),
    "task_wait": ("text", "VALUE IN ('event', 'person', 'agent', 'retry')"),
    "task_priority": ("smallint", "VALUE BETWEEN 0 AND 9"),
    "task_on_failure": ("text", "VALUE IN ('stop', 'undo')"),
    "task_partial_failure": ("text", "VALUE IN ('all', 'any', 'collect')"),
    "next_step_number": ("integer", "VALUE >= 1"),
    "step_state": ("text", "VALUE IN ('open', 'finished', 'failed')"),
    "delegation_state": ("text", "VALUE IN ('pending', 'in_flight', 'succeeded', 'failed', 'unknown', 'compensated')"),
    "outbox_kind": ("text", "VALUE IN ('update', 'dead_letter')"),
}
"""Name → type and rule."""

COLUMNS = (
    ("tasks", "task_id", "task_name"),
    ("tasks", "state", "task_state"),
    ("tasks", "waits_for", "task_wait"),
    ("tasks", "priority", "task_priority"),
    ("tasks", "on_failure", "task_on_failure"),
    ("tasks", "partial_failure", "task_partial_failure"),
    ("tasks", "next_step", "next_step_number"),
    ("steps", "state", "step_state"),
    ("delegations", "state", "delegation_state"),
    ("outbox", "kind", "outbox_kind"),
)
"""Those that are written with each step."""


def upgrade() -> None:
    """Give the columns their domains in place of the tables' rules."""
    for name, (base, rule) in DOMAINS.items():
        op.execute(f"CREATE DOMAIN {name} AS {base} CHECK ({rule})")
    for table in dict.fromkeys(table for table, _, _ in COLUMNS):
        changes = [
            f"DROP CONSTRAINT {table}_{column}_check, ALTER COLUMN {column} TYPE {domain}"
            for of, column, domain in COLUMNS
            if of == table
        ]
        op.execute(f"ALTER TABLE {table} {', '.join(changes)}")


def downgrade() -> None:
    """Give the tables their rules again."""
    for table in dict.fromkeys(table for table, _, _ in COLUMNS):
        changes = []
        for of, column, domain in COLUMNS:
            if of == table:
                base, rule = DOMAINS[domain]
                changes.append(f"ALTER COLUMN {column} TYPE {base}")
                changes.append(f"ADD CONSTRAINT {table}_{column}_check CHECK ({rule.replace('VALUE', column)})")
        op.execute(f"ALTER TABLE {table} {', '.join(changes)}")
    for name in DOMAINS:
        op.execute(f"DROP DOMAIN {name}")
