-- One fenced commit of a step in the two shapes that make up nearly all of them:
--   p_state null: the step goes on. Its decision is recorded with its delegations, those to be called now in flight.
--   p_state 'processing' or 'completed': the step is finished; the task goes on with p_next_step, or ends.
-- With p_next_owner a task that goes on is claimed for its next step in the same breath, unless it is paused; with
-- p_ahead (the columns of `steps`, and `delegations`) that step's decision is recorded too, its call in flight, unless
-- there is something that has to be looked at before.
-- `outcome`: 'written'; 'other': nothing was written, since the case is none of these (the lease is another's, a cancel
-- was asked for, events came in, the decision is on record): the caller writes it the long way.
CREATE FUNCTION commit_step_1(
    p_task_id text, p_epoch bigint, p_owner text, p_step integer,
    p_decision jsonb, p_reason text, p_model text, p_prompt_version text, p_tokens_in integer, p_tokens_out integer,
    p_cost numeric, p_seconds double precision, p_answers integer, p_asked jsonb, p_keep_prompt boolean,
    p_delegations jsonb, p_settlements jsonb, p_merged bigint[], p_spent_tokens bigint, p_spent_money numeric,
    p_context jsonb, p_origins jsonb, p_version integer, p_changes jsonb,
    p_state text, p_next_step integer, p_end_reason text, p_progress boolean, p_stall interval,
    p_update jsonb, p_known integer, p_required integer,
    p_next_owner text, p_lease_for interval, p_ahead jsonb
) RETURNS TABLE (
    outcome text, cancel_requested boolean, paused boolean, step jsonb, delegations jsonb,
    task jsonb, events jsonb, questions jsonb, ahead jsonb, ahead_delegations jsonb
)
-- Everything is found by its key, also where a young table's statistics say that reading it whole is cheaper.
-- And always in the same way: planned once a connection instead of six times.
SET enable_seqscan = off
SET plan_cache_mode = force_generic_plan
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    moved tasks%ROWTYPE;
    new_delegations integer := coalesce(jsonb_array_length(p_delegations), 0);
    ahead_calls integer := 0;
    look_after interval := CASE WHEN p_next_owner IS NULL THEN p_stall ELSE p_lease_for END;
BEGIN
    IF p_decision IS NOT NULL AND EXISTS (
        SELECT FROM steps WHERE task_id = p_task_id AND step_number = p_step AND decision IS NOT NULL)
    THEN
        outcome := 'other';
        RETURN NEXT;
        RETURN;
    END IF;
    IF p_state = 'completed' THEN
        -- Locked before the look: every event accepted before is seen, and none is accepted after it.
        PERFORM FROM tasks WHERE task_id = p_task_id FOR UPDATE;
        IF EXISTS (SELECT FROM inbox
                   WHERE task_id = p_task_id AND state IN ('pending', 'early') AND NOT id = ANY(p_merged)) THEN
            outcome := 'other';
            RETURN NEXT;
            RETURN;
        END IF;
    END IF;

    IF p_ahead IS NOT NULL THEN
        -- What came in is merged, and what people answered is taken, before anything is decided.
        IF EXISTS (SELECT FROM inbox
                   WHERE task_id = p_task_id AND state IN ('pending', 'early') AND NOT id = ANY(p_merged))
            OR EXISTS (SELECT FROM questions WHERE task_id = p_task_id AND state IN ('open', 'answered'))
            OR EXISTS (SELECT FROM steps WHERE task_id = p_task_id AND step_number = p_next_step)
        THEN
            p_ahead := NULL;
        ELSE
            ahead_calls := jsonb_array_length(p_ahead -> 'delegations');
        END IF;
    END IF;

    UPDATE tasks SET
        lost_leases = 0,
        updated_at = now(),
        spent_delegations = spent_delegations + new_delegations + CASE WHEN paused THEN 0 ELSE ahead_calls END,
        spent_tokens = coalesce(p_spent_tokens, spent_tokens),
        spent_money = coalesce(p_spent_money, spent_money),
        reserved_tokens = CASE WHEN p_spent_tokens IS NULL THEN reserved_tokens ELSE 0 END,
        reserved_money = CASE WHEN p_spent_money IS NULL THEN reserved_money ELSE 0 END,
        -- A task keeps the version of the prompt that its first decision was made with.
        versions = CASE WHEN p_keep_prompt AND NOT jsonb_exists(versions, 'prompt')
            THEN versions || jsonb_build_object('prompt', p_prompt_version) ELSE versions END,
        -- From here on: where the step is finished.
        state = coalesce(p_state, state),
        waits_for = CASE WHEN p_state IS NULL THEN waits_for END,
        wait = CASE WHEN p_state IS NULL THEN wait ELSE '{}' END,
        next_step = coalesce(p_next_step, next_step),
        reason_code = CASE WHEN p_state IS NULL THEN reason_code END,
        reason = CASE WHEN p_state IS NULL THEN reason ELSE p_end_reason END,
        woken = CASE WHEN p_state IS NULL THEN woken ELSE false END,
        rings = CASE WHEN p_state IS NULL THEN rings ELSE 0 END,
        idle_steps = CASE WHEN p_state IS NULL THEN idle_steps WHEN p_progress THEN 0 ELSE idle_steps + 1 END,
        ended_at = CASE WHEN p_state = 'completed' THEN now() WHEN p_state IS NULL THEN ended_at END,
        -- When the sweep looks after it, should nobody have taken it up, or its holder be dead; or as it is, where that
        -- is little later: then no index has to be told of the commit.
        due_at = CASE WHEN p_state IS NULL THEN due_at
                      WHEN p_state = 'completed' THEN NULL
                      WHEN due_at BETWEEN now() + look_after AND now() + 1.15 * look_after THEN due_at
                      ELSE now() + 1.15 * look_after END,
        lease_owner = CASE WHEN p_state IS NULL THEN lease_owner
                           WHEN p_state = 'processing' AND NOT paused THEN p_next_owner END,
        lease_until = CASE WHEN p_state IS NULL THEN lease_until
                           WHEN p_state = 'processing' AND NOT paused AND p_next_owner IS NOT NULL
                           THEN now() + p_lease_for END,
        epoch = CASE WHEN p_state = 'processing' AND NOT paused AND p_next_owner IS NOT NULL
                     THEN epoch + 1 ELSE epoch END
    -- The fence. The owner is part of it: PostgreSQL may forget a claim in a crash and give the same epoch again.
    WHERE task_id = p_task_id AND epoch = p_epoch AND lease_owner = p_owner AND next_step = p_step
      AND state NOT IN ('completed', 'failed', 'canceled')
      AND (p_state IS NULL OR (state = 'processing' AND NOT cancel_requested AND undo IS NULL))
    RETURNING * INTO moved;
    IF NOT FOUND THEN
        outcome := 'other';
        RETURN NEXT;
        RETURN;
    END IF;
    outcome := 'written';
    cancel_requested := moved.cancel_requested;
    paused := moved.paused;
    IF moved.lease_owner IS NULL OR p_state IS NULL THEN
        ahead_calls := 0;
        p_ahead := NULL;
    END IF;

    IF p_decision IS NOT NULL THEN
        INSERT INTO steps (task_id, step_number, state, base_version, decision, reason, model, prompt_version, tokens_in,
                           tokens_out, cost, seconds, answers, asked, decided_at)
        SELECT p_task_id, p_step, 'open', version, p_decision, p_reason, p_model, p_prompt_version, p_tokens_in,
               p_tokens_out, p_cost, p_seconds, p_answers, p_asked, now()
        FROM task_contexts WHERE task_id = p_task_id
        ON CONFLICT (task_id, step_number) DO UPDATE SET
            decision = excluded.decision, reason = excluded.reason, model = excluded.model,
            prompt_version = excluded.prompt_version, tokens_in = excluded.tokens_in,
            tokens_out = excluded.tokens_out, cost = excluded.cost, seconds = excluded.seconds,
            answers = excluded.answers, asked = excluded.asked, decided_at = now(), error_code = NULL, error = NULL;
    END IF;

    IF new_delegations > 0 THEN
        WITH made AS (
            INSERT INTO delegations (task_id, step_number, index, agent, arguments, task, idempotency_key, side_effects,
                                     reply_token, state, attempts, sent_at, deadline_at)
            SELECT p_task_id, p_step, r.index, r.agent, r.arguments, r.task, r.key, r.side_effects, r.reply_token,
                   CASE WHEN r.deadline_at IS NULL THEN 'pending' ELSE 'in_flight' END,
                   CASE WHEN r.deadline_at IS NULL THEN 0 ELSE 1 END,
                   CASE WHEN r.deadline_at IS NOT NULL THEN now() END, r.deadline_at
            FROM jsonb_to_recordset(p_delegations)
                AS r(index int, agent text, arguments jsonb, task text, key text, side_effects boolean, reply_token text,
                     deadline_at timestamptz)
            RETURNING *
        )
        SELECT jsonb_agg(to_jsonb(made) ORDER BY made.index) INTO delegations FROM made;
    END IF;

    IF p_settlements IS NOT NULL THEN
        UPDATE delegations SET state = r.state, reply = nullif(r.reply, 'null'), error_code = r.error_code,
            error = r.error, remote_url = r.remote_url, parked = r.parked AND delegations.told IS NULL,
            deadline_at = coalesce(r.deadline_at, delegations.deadline_at),
            finished_at = CASE WHEN r.state IN ('succeeded', 'failed') THEN now() END,
            may_have_acted = (delegations.may_have_acted OR r.may_have_acted OR r.state = 'unknown')
                AND r.error_code IS DISTINCT FROM 'agent_never_received'
        FROM jsonb_to_recordset(p_settlements)
            AS r(index int, state text, reply jsonb, error_code text, error text, remote_url text, parked boolean,
                 may_have_acted boolean, deadline_at timestamptz)
        WHERE delegations.task_id = p_task_id AND delegations.step_number = p_step AND delegations.index = r.index
          -- An outcome that is known gives way to another one only (`orchestrator.store.fenced_commit`).
          AND (delegations.state NOT IN ('succeeded', 'failed') OR r.state IN ('succeeded', 'failed'));
    END IF;

    IF cardinality(p_merged) > 0 THEN
        UPDATE inbox SET state = 'merged', merged_version = p_version WHERE id = ANY(p_merged);
    END IF;

    IF p_state IS NOT NULL THEN
        UPDATE steps SET state = 'finished', attempts = attempts + 1, result_version = coalesce(p_version, base_version),
            error_code = NULL, error = NULL, finished_at = now()
        WHERE task_id = p_task_id AND step_number = p_step
        RETURNING to_jsonb(steps) INTO step;
        IF NOT FOUND THEN
            INSERT INTO steps (task_id, step_number, state, base_version, attempts, result_version, finished_at)
            SELECT p_task_id, p_step, 'finished', version, 1, coalesce(p_version, version), now()
            FROM task_contexts WHERE task_id = p_task_id
            RETURNING to_jsonb(steps) INTO step;
        END IF;
    END IF;

    IF p_context IS NOT NULL THEN
        INSERT INTO context_versions (task_id, version, step, changes)
        VALUES (p_task_id, p_version, p_step, p_changes)
        ON CONFLICT DO NOTHING;
        UPDATE task_contexts
        SET context = p_context, version = p_version, origins = p_origins, updated_at = now()
        WHERE task_id = p_task_id;
    ELSIF p_state = 'completed' THEN
        UPDATE task_contexts
        SET context = jsonb_set(context, '{current_state}', to_jsonb(p_state)), updated_at = now()
        WHERE task_id = p_task_id;
    END IF;

    IF p_state IS NULL THEN
        RETURN NEXT;
        RETURN;
    END IF;

    -- The update, with how far the task is (`orchestrator.store.tell`).
    INSERT INTO outbox (kind, task_id, body)
    SELECT 'update', p_task_id,
        p_update
        || CASE WHEN moved.source IS NULL THEN '{}' ELSE jsonb_build_object('source', moved.source) END
        || jsonb_build_object('progress', jsonb_build_object(
            'fields_known', p_known, 'fields_required', p_required,
            'delegations_settled', d.settled, 'delegations', d.present,
            'since', replace(to_jsonb(coalesce(moved.ended_at, moved.updated_at)) #>> '{}', '+00:00', 'Z'),
            'spent', jsonb_build_object(
                'steps', (SELECT count(*) FROM steps WHERE task_id = p_task_id AND decision IS NOT NULL),
                'delegations', moved.spent_delegations - ahead_calls, 'tokens', moved.spent_tokens, 'cost', moved.spent_money)))
    FROM (
        SELECT count(*) AS present, count(*) FILTER (WHERE state IN ('succeeded', 'failed', 'compensated')) AS settled
        FROM delegations WHERE task_id = p_task_id AND step_number = p_next_step
    ) d;

    IF moved.lease_owner IS NULL THEN
        RETURN NEXT;
        RETURN;
    END IF;

    SELECT jsonb_agg(to_jsonb(d) ORDER BY d.index) INTO delegations
    FROM delegations d WHERE task_id = p_task_id AND step_number = p_step;
    task := to_jsonb(moved) || jsonb_build_object(
        'spent_money', moved.spent_money::text, 'reserved_money', moved.reserved_money::text);
    IF p_ahead IS NULL THEN
        SELECT jsonb_agg(jsonb_build_object('id', id, 'event_type', event_type, 'body', body,
                                            'received_at', received_at) ORDER BY id)
        INTO events
        FROM inbox WHERE task_id = p_task_id AND state IN ('pending', 'early');
        SELECT jsonb_agg(to_jsonb(q) ORDER BY q.asked_at, q.ref) INTO questions
        FROM questions q LEFT JOIN steps s ON s.task_id = q.task_id AND s.step_number = q.step_number
        WHERE q.task_id = p_task_id AND NOT coalesce(s.superseded, false)
          AND (q.state IN ('open', 'answered') OR q.step_number = p_next_step);
        RETURN NEXT;
        RETURN;
    END IF;

    INSERT INTO steps (task_id, step_number, state, base_version, decision, reason, model, prompt_version, tokens_in,
                       tokens_out, cost, seconds, answers, asked, decided_at)
    SELECT p_task_id, p_next_step, 'open', a.base_version, a.decision, a.reason, a.model, a.prompt_version, a.tokens_in,
           a.tokens_out, a.cost, a.seconds, a.answers, a.asked, now()
    FROM jsonb_to_record(p_ahead)
        AS a(base_version int, decision jsonb, reason text, model text, prompt_version text, tokens_in int,
             tokens_out int, cost numeric, seconds double precision, answers int, asked jsonb)
    RETURNING to_jsonb(steps) INTO ahead;
    WITH made AS (
        INSERT INTO delegations (task_id, step_number, index, agent, arguments, task, idempotency_key, side_effects,
                                 reply_token, state, attempts, sent_at, deadline_at)
        SELECT p_task_id, p_next_step, r.index, r.agent, r.arguments, r.task, r.key, r.side_effects, r.reply_token,
               'in_flight', 1, now(), r.deadline_at
        FROM jsonb_to_recordset(p_ahead -> 'delegations')
            AS r(index int, agent text, arguments jsonb, task text, key text, side_effects boolean, reply_token text,
                 deadline_at timestamptz)
        RETURNING *
    )
    SELECT jsonb_agg(to_jsonb(made) ORDER BY made.index) INTO ahead_delegations FROM made;
    RETURN NEXT;
END
$$
