"""The first tables."""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TABLES = """
CREATE TABLE tasks (
    task_id text PRIMARY KEY CHECK (length(task_id) BETWEEN 1 AND 200),
    description text NOT NULL,
    required_fields jsonb NOT NULL,
    state text NOT NULL
        CHECK (state IN ('received', 'processing', 'waiting', 'compensating', 'completed', 'failed', 'canceled')),
    waits_for text CHECK (waits_for IN ('event', 'person', 'agent', 'retry')),
    wait jsonb NOT NULL DEFAULT '{}',
    woken boolean NOT NULL DEFAULT false,
    paused boolean NOT NULL DEFAULT false,
    cancel_requested boolean NOT NULL DEFAULT false,
    priority smallint NOT NULL DEFAULT 4 CHECK (priority BETWEEN 0 AND 9),
    tenant text,
    allowed_agents jsonb,
    on_failure text NOT NULL DEFAULT 'stop' CHECK (on_failure IN ('stop', 'undo')),
    deadline timestamptz,
    budget jsonb NOT NULL DEFAULT '{}',
    extra jsonb NOT NULL DEFAULT '{}',
    next_step integer NOT NULL DEFAULT 1 CHECK (next_step >= 1),
    epoch bigint NOT NULL DEFAULT 0,
    lease_owner text,
    lease_until timestamptz,
    lost_leases integer NOT NULL DEFAULT 0,
    rings integer NOT NULL DEFAULT 0,
    due_at timestamptz,
    reason_code text,
    reason text,
    content_digest text NOT NULL,
    source jsonb,
    versions jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    ended_at timestamptz
);
CREATE INDEX tasks_due ON tasks (due_at)
    WHERE state IN ('received', 'processing', 'waiting', 'compensating') AND NOT paused;
CREATE INDEX tasks_newest ON tasks (created_at DESC, task_id);
CREATE INDEX tasks_by_state ON tasks (state, created_at DESC);

CREATE TABLE task_contexts (
    id bigserial PRIMARY KEY,
    task_id text NOT NULL UNIQUE REFERENCES tasks ON DELETE CASCADE,
    context jsonb NOT NULL,
    version integer NOT NULL,
    origins jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE context_versions (
    task_id text NOT NULL REFERENCES tasks ON DELETE CASCADE,
    version integer NOT NULL,
    step integer,
    changes jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (task_id, version)
);

CREATE TABLE steps (
    task_id text NOT NULL REFERENCES tasks ON DELETE CASCADE,
    step_number integer NOT NULL,
    state text NOT NULL CHECK (state IN ('open', 'finished', 'failed')),
    decision jsonb,
    reason text,
    model text,
    prompt_version text,
    tokens_in integer,
    tokens_out integer,
    cost numeric,
    seconds double precision,
    answers integer,
    attempts integer NOT NULL DEFAULT 0,
    base_version integer NOT NULL,
    result_version integer,
    error_code text,
    error text,
    superseded boolean NOT NULL DEFAULT false,
    started_at timestamptz NOT NULL DEFAULT now(),
    decided_at timestamptz,
    finished_at timestamptz,
    PRIMARY KEY (task_id, step_number)
);

CREATE TABLE delegations (
    id bigserial PRIMARY KEY,
    task_id text NOT NULL,
    step_number integer NOT NULL,
    index integer NOT NULL,
    agent text NOT NULL,
    arguments jsonb NOT NULL,
    task text NOT NULL,
    idempotency_key text NOT NULL UNIQUE,
    side_effects boolean NOT NULL,
    state text NOT NULL
        CHECK (state IN ('pending', 'in_flight', 'succeeded', 'failed', 'unknown', 'compensated')),
    attempts integer NOT NULL DEFAULT 0,
    sent_at timestamptz,
    deadline_at timestamptz,
    remote_url text,
    reply jsonb,
    error_code text,
    error text,
    created_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    UNIQUE (task_id, step_number, index),
    FOREIGN KEY (task_id, step_number) REFERENCES steps ON DELETE CASCADE
);

CREATE TABLE inbox (
    id bigserial PRIMARY KEY,
    topic text NOT NULL,
    partition integer NOT NULL,
    record_offset bigint NOT NULL,
    digest text NOT NULL,
    message_id text,
    kind text NOT NULL CHECK (kind IN ('task', 'event', 'invalid')),
    task_id text,
    event_type text,
    body jsonb NOT NULL DEFAULT '{}',
    timestamp_ms bigint NOT NULL,
    key bytea,
    value bytea,
    headers jsonb NOT NULL DEFAULT '[]',
    state text NOT NULL CHECK (state IN
        ('accepted', 'duplicate', 'conflict', 'pending', 'early', 'merged', 'late', 'expired', 'invalid')),
    merged_version integer,
    received_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (topic, partition, record_offset, digest)
);
CREATE UNIQUE INDEX inbox_message_ids ON inbox (topic, message_id) WHERE message_id IS NOT NULL;
CREATE INDEX inbox_waiting_events ON inbox (task_id, id) WHERE state IN ('pending', 'early');
CREATE INDEX inbox_early_events ON inbox (received_at) WHERE state = 'early';

CREATE TABLE offsets (
    topic text NOT NULL,
    partition integer NOT NULL,
    next_offset bigint NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (topic, partition)
);

CREATE TABLE dead_letters (
    id bigserial PRIMARY KEY,
    reason text NOT NULL,
    detail text NOT NULL,
    task_id text,
    topic text NOT NULL,
    partition integer NOT NULL,
    record_offset bigint NOT NULL,
    timestamp_ms bigint NOT NULL,
    key bytea,
    value bytea,
    headers jsonb NOT NULL DEFAULT '[]',
    created_at timestamptz NOT NULL DEFAULT now(),
    replayed_at timestamptz
);

CREATE TABLE outbox (
    id bigserial PRIMARY KEY,
    kind text NOT NULL CHECK (kind IN ('update', 'dead_letter')),
    task_id text,
    body jsonb NOT NULL DEFAULT '{}',
    dead_letter_id bigint REFERENCES dead_letters ON DELETE CASCADE,
    created_at timestamptz NOT NULL DEFAULT now(),
    published_at timestamptz
);
CREATE INDEX outbox_unpublished ON outbox (id) WHERE published_at IS NULL;
CREATE INDEX outbox_of_task ON outbox (task_id, id);

CREATE TABLE publisher (
    only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    owner text,
    until timestamptz
);
INSERT INTO publisher DEFAULT VALUES;

CREATE TABLE audit (
    id bigserial PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT now(),
    who text NOT NULL,
    what text NOT NULL,
    why text NOT NULL,
    task_id text,
    details jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX audit_of_task ON audit (task_id, id);
"""


def upgrade() -> None:
    """Make all tables."""
    op.execute(TABLES)


def downgrade() -> None:
    """Remove them; data is lost."""
    op.execute(
        "DROP TABLE audit, publisher, outbox, dead_letters, offsets, inbox, delegations, steps, context_versions, "
        "task_contexts, tasks"
    )
