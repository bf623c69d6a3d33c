-- The outbox keeps no record of publication. An event without a pending row was published,
-- or it never became pending: its trigger did not fire, because the session replicated, or
-- because the row was inserted straight into a partition. The view said "published" of both.
-- Ids come again after a restore, so rows belong together by id and created_at.
--
-- A view that is replaced loses its options, security_invoker for one, so they are set again.
SELECT set_config('outbox.status_options', coalesce((SELECT array_to_string(reloptions, ', ') FROM pg_class WHERE oid = 'outbox.status'::regclass), ''), true);
CREATE OR REPLACE VIEW outbox.status AS
SELECT e.id, e.event_id, e.topic, e.key, e.lane, e.type, e.created_at,
       CASE WHEN p.id IS NOT NULL THEN 'pending'
            WHEN d.id IS NOT NULL THEN 'dead'
            WHEN x.id IS NOT NULL THEN 'discarded'
            ELSE 'not pending' END AS state,
       coalesce(p.replay, d.replay, x.replay) AS replay,
       coalesce(d.code, r.code, x.code) AS code, coalesce(d.message, r.message, x.message) AS message,
       coalesce(d.attempts, r.attempts) AS attempts, coalesce(d.dead_at, x.dead_at) AS dead_at, d.workflow_id
FROM outbox.event e
LEFT JOIN outbox.pending p     ON (p.topic, p.lane, p.id, p.created_at) = (e.topic, e.lane, e.id, e.created_at)
LEFT JOIN outbox.dead_letter d ON (d.topic, d.lane, d.id, d.created_at) = (e.topic, e.lane, e.id, e.created_at)
LEFT JOIN outbox.discarded x   ON (x.topic, x.lane, x.id, x.created_at) = (e.topic, e.lane, e.id, e.created_at)
LEFT JOIN outbox.refusal r     ON (r.topic, r.lane, r.id, r.replay) = (p.topic, p.lane, p.id, p.replay)
                              AND coalesce(r.created_at, p.created_at) = p.created_at;
DO $$ BEGIN
    IF current_setting('outbox.status_options') <> '' THEN
        EXECUTE format('ALTER VIEW outbox.status SET (%s)', current_setting('outbox.status_options'));
    END IF;
END $$;

---- create above / drop below ----

CREATE OR REPLACE VIEW outbox.status AS
SELECT e.id, e.event_id, e.topic, e.key, e.lane, e.type, e.created_at,
       CASE WHEN p.id IS NOT NULL THEN 'pending'
            WHEN d.id IS NOT NULL THEN 'dead'
            WHEN x.id IS NOT NULL THEN 'discarded'
            ELSE 'published' END AS state,
       coalesce(p.replay, d.replay, x.replay) AS replay,
       coalesce(d.code, r.code, x.code) AS code, coalesce(d.message, r.message, x.message) AS message,
       coalesce(d.attempts, r.attempts) AS attempts, coalesce(d.dead_at, x.dead_at) AS dead_at, d.workflow_id
FROM outbox.event e
LEFT JOIN outbox.pending p     ON (p.topic, p.lane, p.id) = (e.topic, e.lane, e.id)
LEFT JOIN outbox.dead_letter d ON (d.topic, d.lane, d.id) = (e.topic, e.lane, e.id)
LEFT JOIN outbox.discarded x   ON (x.topic, x.lane, x.id) = (e.topic, e.lane, e.id)
LEFT JOIN outbox.refusal r     ON (r.topic, r.lane, r.id, r.replay) = (p.topic, p.lane, p.id, p.replay);
