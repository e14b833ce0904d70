-- Fenced commits of steps of several tasks, each in one of the two shapes that make up nearly all of them:
--   state null: the step goes on. Its decision is recorded with its delegations, those to be called now in flight.
--   state 'processing' or 'completed': the step is finished; the task goes on with next_step, or ends.
-- With next_owner a task that goes on is claimed for its next step in the same breath, unless it is paused; with
-- ahead_decision that step's decision is recorded too, its call in flight, unless there is something that has to be
-- looked at before.
-- What its caller knows is not given back: what it wrote, and the task's row where nobody has changed it since the
-- transaction left_by, in which the caller left it (`task` is null then).
-- `outcome`: 'written'; 'other': nothing was written, since the case is none of these (the lease is another's, a cancel
-- was asked for, events came in, the decision is on record): the caller writes it the long way.
-- One row for each commit, in their order, `of_call` from 0. What is not among the keys of a commit is null.
CREATE FUNCTION commit_steps_1(p_commits jsonb) RETURNS TABLE (
    of_call integer, outcome text, cancel_requested boolean, paused boolean, claimed boolean, ahead boolean,
    task jsonb, events jsonb, questions jsonb, left_by text
)
-- Everything is found by its key, also where a young table's statistics say that reading it whole is cheaper.
-- And always in the same way: planned once a connection instead of six times.
SET enable_seqscan = off
SET plan_cache_mode = force_generic_plan
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    c record;
    moved tasks%ROWTYPE;
    new_delegations integer;
    ahead_calls integer;
    look_after interval;
BEGIN
    of_call := -1;
    left_by := pg_current_xact_id()::text;
    FOR c IN SELECT * FROM jsonb_to_recordset(p_commits) AS r(
        task_id text, epoch bigint, owner text, step integer, left_by text,
        decision jsonb, reason text, model text, prompt_version text, tokens_in integer, tokens_out integer,
        cost numeric, seconds double precision, answers integer, asked jsonb, keep_prompt boolean, delegations jsonb,
        settled_index integer, settled_state text, reply jsonb, error_code text, error text, remote_url text,
        parked boolean, may_have_acted boolean, deadline_at timestamptz,
        merged bigint[], spent_tokens bigint, spent_money numeric,
        context jsonb, origins jsonb, version integer, changes jsonb,
        state text, next_step integer, end_reason text, progress boolean, stall interval,
        body jsonb, known integer, required integer, steps_decided integer,
        next_owner text, lease_for interval,
        ahead_version integer, ahead_decision jsonb, ahead_reason text, ahead_model text, ahead_prompt_version text,
        ahead_tokens_in integer, ahead_tokens_out integer, ahead_cost numeric, ahead_seconds double precision,
        ahead_answers integer, ahead_asked jsonb, ahead_agent text, ahead_arguments jsonb, ahead_task text,
        ahead_key text, ahead_side_effects boolean, ahead_reply_token text, ahead_deadline_at timestamptz)
    LOOP
        of_call := of_call + 1;
        outcome := 'other';
        cancel_requested := NULL;
        paused := NULL;
        claimed := false;
        ahead := c.ahead_decision IS NOT NULL;
        task := NULL;
        events := NULL;
        questions := NULL;

        IF c.decision IS NOT NULL AND EXISTS (
            SELECT FROM steps WHERE task_id = c.task_id AND step_number = c.step AND decision IS NOT NULL)
        THEN
            RETURN NEXT;
            CONTINUE;
        END IF;
        IF c.state = 'completed' THEN
            -- Locked before the look: every event accepted before is seen, and none is accepted after it.
            PERFORM FROM tasks WHERE task_id = c.task_id FOR UPDATE;
            IF EXISTS (SELECT FROM inbox WHERE task_id = c.task_id AND state IN ('pending', 'early')
                         AND (c.merged IS NULL OR NOT id = ANY(c.merged))) THEN
                RETURN NEXT;
                CONTINUE;
            END IF;
        END IF;
        -- What came in is merged, and what people answered is taken, before anything is decided.
        IF ahead AND (
            EXISTS (SELECT FROM inbox WHERE task_id = c.task_id AND state IN ('pending', 'early')
                      AND (c.merged IS NULL OR NOT id = ANY(c.merged)))
            OR EXISTS (SELECT FROM questions WHERE task_id = c.task_id AND state IN ('open', 'answered'))
            OR EXISTS (SELECT FROM steps WHERE task_id = c.task_id AND step_number = c.next_step))
        THEN
            ahead := false;
        END IF;
        ahead_calls := CASE WHEN ahead THEN 1 ELSE 0 END;
        new_delegations := coalesce(jsonb_array_length(c.delegations), 0);
        look_after := CASE WHEN c.next_owner IS NULL THEN c.stall ELSE c.lease_for END;

        UPDATE tasks SET
            lost_leases = 0,
            updated_at = now(),
            as_left = coalesce(xmin = c.left_by::xid8::xid, false),
            spent_delegations = spent_delegations + new_delegations + CASE WHEN paused THEN 0 ELSE ahead_calls END,
            spent_tokens = coalesce(c.spent_tokens, spent_tokens),
            spent_money = coalesce(c.spent_money, spent_money),
            reserved_tokens = CASE WHEN c.spent_tokens IS NULL THEN reserved_tokens ELSE 0 END,
            reserved_money = CASE WHEN c.spent_tokens IS NULL THEN reserved_money ELSE 0 END,
            -- A task keeps the version of the prompt that its first decision was made with.
            versions = CASE WHEN c.keep_prompt AND NOT jsonb_exists(versions, 'prompt')
                THEN versions || jsonb_build_object('prompt', c.prompt_version) ELSE versions END,
            -- From here on: where the step is finished.
            state = coalesce(c.state, state),
            waits_for = CASE WHEN c.state IS NULL THEN waits_for END,
            wait = CASE WHEN c.state IS NULL THEN wait ELSE '{}' END,
            next_step = coalesce(c.next_step, next_step),
            reason_code = CASE WHEN c.state IS NULL THEN reason_code END,
            reason = CASE WHEN c.state IS NULL THEN reason ELSE c.end_reason END,
            woken = CASE WHEN c.state IS NULL THEN woken ELSE false END,
            rings = CASE WHEN c.state IS NULL THEN rings ELSE 0 END,
            idle_steps = CASE WHEN c.state IS NULL THEN idle_steps WHEN c.progress THEN 0 ELSE idle_steps + 1 END,
            ended_at = CASE WHEN c.state = 'completed' THEN now() WHEN c.state IS NULL THEN ended_at END,
            -- When the sweep looks after it, should nobody have taken it up, or its holder be dead; or as it is, where
            -- that is little later: then no index has to be told of the commit.
            due_at = CASE WHEN c.state IS NULL THEN due_at
                          WHEN c.state = 'completed' THEN NULL
                          WHEN due_at BETWEEN now() + look_after AND now() + 1.15 * look_after THEN due_at
                          ELSE now() + 1.15 * look_after END,
            lease_owner = CASE WHEN c.state IS NULL THEN lease_owner
                               WHEN c.state = 'processing' AND NOT paused THEN c.next_owner END,
            lease_until = CASE WHEN c.state IS NULL THEN lease_until
                               WHEN c.state = 'processing' AND NOT paused AND c.next_owner IS NOT NULL
                               THEN now() + c.lease_for END,
            epoch = CASE WHEN c.state = 'processing' AND NOT paused AND c.next_owner IS NOT NULL
                         THEN epoch + 1 ELSE epoch END
        -- The fence. The owner is part of it: PostgreSQL may forget a claim in a crash and give the same epoch again.
        WHERE task_id = c.task_id AND epoch = c.epoch AND lease_owner = c.owner AND next_step = c.step
          AND state NOT IN ('completed', 'failed', 'canceled')
          AND (c.state IS NULL OR (state = 'processing' AND NOT cancel_requested AND undo IS NULL))
        RETURNING * INTO moved;
        IF NOT FOUND THEN
            RETURN NEXT;
            CONTINUE;
        END IF;
        outcome := 'written';
        cancel_requested := moved.cancel_requested;
        paused := moved.paused;
        claimed := c.state IS NOT NULL AND moved.lease_owner IS NOT NULL;
        IF NOT claimed THEN
            ahead := false;
            ahead_calls := 0;
        END IF;

        IF c.decision IS NOT NULL THEN
            INSERT INTO steps (task_id, step_number, state, base_version, decision, reason, model, prompt_version,
                               tokens_in, tokens_out, cost, seconds, answers, asked, decided_at)
            SELECT c.task_id, c.step, 'open', version, c.decision, c.reason, c.model, c.prompt_version,
                   c.tokens_in, c.tokens_out, c.cost, c.seconds, c.answers, c.asked, now()
            FROM task_contexts WHERE task_id = c.task_id
            ON CONFLICT (task_id, step_number) DO UPDATE SET
                decision = excluded.decision, reason = excluded.reason, model = excluded.model,
                prompt_version = excluded.prompt_version, tokens_in = excluded.tokens_in,
                tokens_out = excluded.tokens_out, cost = excluded.cost, seconds = excluded.seconds,
                answers = excluded.answers, asked = excluded.asked, decided_at = now(), error_code = NULL, error = NULL;
        END IF;

        IF new_delegations > 0 THEN
            INSERT INTO delegations (task_id, step_number, index, agent, arguments, task, idempotency_key, side_effects,
                                     reply_token, state, attempts, sent_at, deadline_at)
            SELECT c.task_id, c.step, r.index, r.agent, r.arguments, r.task, r.key, r.side_effects, r.reply_token,
                   CASE WHEN r.deadline_at IS NULL THEN 'pending' ELSE 'in_flight' END,
                   CASE WHEN r.deadline_at IS NULL THEN 0 ELSE 1 END,
                   CASE WHEN r.deadline_at IS NOT NULL THEN now() END, r.deadline_at
            FROM jsonb_to_recordset(c.delegations)
                AS r(index int, agent text, arguments jsonb, task text, key text, side_effects boolean,
                     reply_token text, deadline_at timestamptz);
        END IF;

        IF c.settled_index IS NOT NULL THEN
            UPDATE delegations SET state = c.settled_state, reply = c.reply, error_code = c.error_code,
                error = c.error, remote_url = c.remote_url, parked = c.parked AND told IS NULL,
                deadline_at = coalesce(c.deadline_at, deadline_at),
                finished_at = CASE WHEN c.settled_state IN ('succeeded', 'failed') THEN now() END,
                may_have_acted = (may_have_acted OR c.may_have_acted OR c.settled_state = 'unknown')
                    AND c.error_code IS DISTINCT FROM 'agent_never_received'
            WHERE task_id = c.task_id AND step_number = c.step AND index = c.settled_index
              -- An outcome that is known gives way to another one only (`orchestrator.store.fenced_commit`).
              AND (state NOT IN ('succeeded', 'failed') OR c.settled_state IN ('succeeded', 'failed'));
        END IF;

        IF c.merged IS NOT NULL THEN
            UPDATE inbox SET state = 'merged', merged_version = c.version WHERE id = ANY(c.merged);
        END IF;

        IF c.state IS NOT NULL THEN
            UPDATE steps SET state = 'finished', attempts = attempts + 1,
                result_version = coalesce(c.version, base_version), error_code = NULL, error = NULL, finished_at = now()
            WHERE task_id = c.task_id AND step_number = c.step;
            IF NOT FOUND THEN
                INSERT INTO steps (task_id, step_number, state, base_version, attempts, result_version, finished_at)
                SELECT c.task_id, c.step, 'finished', version, 1, coalesce(c.version, version), now()
                FROM task_contexts WHERE task_id = c.task_id;
            END IF;
        END IF;

        IF c.context IS NOT NULL THEN
            INSERT INTO context_versions (task_id, version, step, changes)
            VALUES (c.task_id, c.version, c.step, c.changes)
            ON CONFLICT DO NOTHING;
            UPDATE task_contexts
            SET context = c.context, version = c.version, origins = c.origins, updated_at = now()
            WHERE task_id = c.task_id;
        ELSIF c.state = 'completed' THEN
            UPDATE task_contexts
            SET context = jsonb_set(context, '{current_state}', to_jsonb(c.state)), updated_at = now()
            WHERE task_id = c.task_id;
        END IF;

        IF c.state IS NULL THEN
            RETURN NEXT;
            CONTINUE;
        END IF;

        -- The update, with how far the task is (`orchestrator.store.tell`).
        INSERT INTO outbox (kind, task_id, body)
        SELECT 'update', c.task_id,
            c.body
            || CASE WHEN moved.source IS NULL THEN '{}' ELSE jsonb_build_object('source', moved.source) END
            || jsonb_build_object('progress', jsonb_build_object(
                'fields_known', c.known, 'fields_required', c.required,
                'delegations_settled', d.settled, 'delegations', d.present,
                'since', replace(to_jsonb(coalesce(moved.ended_at, moved.updated_at)) #>> '{}', '+00:00', 'Z'),
                'spent', jsonb_build_object(
                    'steps', coalesce(c.steps_decided, (
                        SELECT count(*) FROM steps WHERE task_id = c.task_id AND decision IS NOT NULL)),
                    'delegations', moved.spent_delegations - ahead_calls,
                    'tokens', moved.spent_tokens, 'cost', moved.spent_money)))
        FROM (
            SELECT count(*) AS present, count(*) FILTER (WHERE state IN ('succeeded', 'failed', 'compensated')) AS settled
            FROM delegations WHERE task_id = c.task_id AND step_number = c.next_step
        ) d;

        IF NOT claimed THEN
            RETURN NEXT;
            CONTINUE;
        END IF;
        IF NOT moved.as_left THEN
            -- Money as text: numbers of JSON are read as floats.
            task := to_jsonb(moved) || jsonb_build_object(
                'spent_money', moved.spent_money::text, 'reserved_money', moved.reserved_money::text);
        END IF;
        IF NOT ahead THEN
            SELECT jsonb_agg(jsonb_build_object('id', id, 'event_type', event_type, 'body', body,
                                                'received_at', received_at) ORDER BY id)
            INTO events
            FROM inbox WHERE task_id = c.task_id AND state IN ('pending', 'early');
            SELECT jsonb_agg(to_jsonb(q) ORDER BY q.asked_at, q.ref) INTO questions
            FROM questions q LEFT JOIN steps s ON s.task_id = q.task_id AND s.step_number = q.step_number
            WHERE q.task_id = c.task_id AND NOT coalesce(s.superseded, false)
              AND (q.state IN ('open', 'answered') OR q.step_number = c.next_step);
            RETURN NEXT;
            CONTINUE;
        END IF;

        INSERT INTO steps (task_id, step_number, state, base_version, decision, reason, model, prompt_version,
                           tokens_in, tokens_out, cost, seconds, answers, asked, decided_at)
        VALUES (c.task_id, c.next_step, 'open', c.ahead_version, c.ahead_decision, c.ahead_reason, c.ahead_model,
                c.ahead_prompt_version, c.ahead_tokens_in, c.ahead_tokens_out, c.ahead_cost, c.ahead_seconds,
                c.ahead_answers, c.ahead_asked, now());
        INSERT INTO delegations (task_id, step_number, index, agent, arguments, task, idempotency_key, side_effects,
                                 reply_token, state, attempts, sent_at, deadline_at)
        VALUES (c.task_id, c.next_step, 0, c.ahead_agent, c.ahead_arguments, c.ahead_task, c.ahead_key,
                c.ahead_side_effects, c.ahead_reply_token, 'in_flight', 1, now(), c.ahead_deadline_at);
        RETURN NEXT;
    END LOOP;
END
$$
