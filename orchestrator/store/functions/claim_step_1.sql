-- Takes a task's lease (epoch + 1) and gives all that a step needs, the past included where it has to decide.
-- `refused` says why there is nothing to do; then everything else is null.
CREATE FUNCTION claim_step_1(
    p_task_id text, p_step integer, p_owner text, p_lease_for interval, p_ageing double precision
) RETURNS TABLE (
    refused text, task jsonb, context jsonb, events jsonb, questions jsonb, step jsonb, delegations jsonb,
    past_steps jsonb, past_delegations jsonb, past_questions jsonb, past_events jsonb
)
-- Everything is found by its key, also where a young table's statistics say that reading it whole is cheaper.
-- And always in the same way: planned once a connection instead of six times.
SET enable_seqscan = off
SET plan_cache_mode = force_generic_plan
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    claimed tasks%ROWTYPE;
BEGIN
    UPDATE tasks SET
        epoch = epoch + 1,
        lease_owner = p_owner,
        lost_leases = lost_leases + CASE WHEN lease_until IS NULL THEN 0 ELSE 1 END,
        lease_until = now() + p_lease_for,
        -- When the lease ends; or as it is, where that is little later: then no index has to be told of the claim.
        due_at = CASE WHEN due_at BETWEEN now() + p_lease_for AND now() + 1.3 * p_lease_for THEN due_at
                      ELSE now() + p_lease_for END,
        -- Urgency gained by waiting: one level for each span of ageing, at most to the highest.
        aged = least(9, aged + coalesce(greatest(0, floor(extract(epoch FROM now() - ready_at) / p_ageing)), 0)),
        ready_at = NULL,
        rings = 0,
        woken = false,
        -- What a worker that died had reserved counts as spent.
        spent_tokens = spent_tokens + reserved_tokens,
        spent_money = spent_money + reserved_money,
        reserved_tokens = 0,
        reserved_money = 0,
        state = CASE WHEN state = 'compensating' THEN state ELSE 'processing' END,
        waits_for = NULL,
        updated_at = now()
    WHERE task_id = p_task_id
      -- A CASE, so that no index of states or of what is due fits. Such an index was empty when an idle system's
      -- statistics were made: by them reading all of it costs less than looking up a key, however much has come since.
      AND CASE WHEN next_step = p_step AND NOT paused
                AND state IN ('received', 'processing', 'waiting', 'compensating')
                AND (lease_until IS NULL OR lease_until < now())
                AND (state NOT IN ('waiting', 'compensating') OR woken OR cancel_requested OR due_at <= now())
                AND (state <> 'received' OR not_before IS NULL OR not_before <= now())
               THEN true ELSE false END
    RETURNING * INTO claimed;

    IF NOT FOUND THEN
        SELECT CASE
            WHEN state IN ('completed', 'failed', 'canceled') THEN 'ended'
            WHEN next_step <> p_step THEN 'not_next'
            WHEN paused THEN 'paused'
            WHEN lease_until >= now() THEN 'held'
            ELSE 'not_due' END
        INTO refused FROM tasks WHERE task_id = p_task_id;
        refused := coalesce(refused, 'no_task');
        RETURN NEXT;
        RETURN;
    END IF;

    -- Money as text: numbers of JSON are read as floats.
    task := to_jsonb(claimed) || jsonb_build_object('spent_money', claimed.spent_money::text, 'reserved_money', '0');

    SELECT to_jsonb(c) INTO context FROM task_contexts c WHERE task_id = p_task_id;
    IF context -> 'context' ->> 'current_state' IS DISTINCT FROM claimed.state THEN
        UPDATE task_contexts
        SET context = jsonb_set(task_contexts.context, '{current_state}', to_jsonb(claimed.state)), updated_at = now()
        WHERE task_id = p_task_id;
    END IF;

    SELECT to_jsonb(s) INTO step FROM steps s WHERE task_id = p_task_id AND step_number = p_step;
    IF FOUND THEN
        SELECT jsonb_agg(to_jsonb(d) ORDER BY d.index) INTO delegations
        FROM delegations d WHERE task_id = p_task_id AND step_number = p_step;
    END IF;

    SELECT jsonb_agg(jsonb_build_object('id', id, 'event_type', event_type, 'body', body, 'received_at', received_at)
                     ORDER BY id) FILTER (WHERE state IN ('pending', 'early')),
           jsonb_agg(jsonb_build_object('id', id, 'event_type', event_type, 'body', body, 'received_at', received_at,
                                        'ended_wait_of', ended_wait_of)
                     ORDER BY id) FILTER (WHERE ended_wait_of IS NOT NULL)
    INTO events, past_events
    FROM inbox WHERE task_id = p_task_id AND state IN ('pending', 'early', 'merged');

    SELECT jsonb_agg(to_jsonb(q) ORDER BY q.asked_at, q.ref)
               FILTER (WHERE NOT coalesce(s.superseded, false)
                         AND (q.state IN ('open', 'answered') OR q.step_number = p_step)),
           jsonb_agg(to_jsonb(q) ORDER BY q.asked_at, q.ref)
    INTO questions, past_questions
    FROM questions q LEFT JOIN steps s ON s.task_id = q.task_id AND s.step_number = q.step_number
    WHERE q.task_id = p_task_id;

    IF step -> 'decision' IS NULL OR step -> 'decision' = 'null' THEN
        past_steps := '[]';
        past_delegations := '[]';
        IF p_step > 1 OR step IS NOT NULL THEN
            SELECT coalesce(jsonb_agg(to_jsonb(s) ORDER BY s.step_number), '[]') INTO past_steps
            FROM steps s WHERE task_id = p_task_id;
            SELECT coalesce(jsonb_agg(to_jsonb(d) ORDER BY d.step_number, d.index), '[]') INTO past_delegations
            FROM delegations d WHERE task_id = p_task_id;
        END IF;
    END IF;
    RETURN NEXT;
END
$$
