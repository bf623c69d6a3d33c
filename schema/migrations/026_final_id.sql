-- Up to which id no event can come any more: every transaction that drew an id up to
-- final_id has ended. Whoever reads events by their ids forgets what is below, and looks
-- again at all ids above that have not come.

-- closed_id is the last id that the sequence had given when a round was closed, before its
-- writers were listed. When all of them have ended, it becomes final_id. Workers of the
-- version before leave both alone: then final_id is older, which is safe.
--
-- closed_id_at and final_id_at are from before the same look at the sequence: no id above
-- was drawn earlier. They bound created_at, so that a reader opens few partitions.
ALTER TABLE outbox.round
    ADD COLUMN closed_id    bigint      NOT NULL DEFAULT 0,
    ADD COLUMN closed_id_at timestamptz NOT NULL DEFAULT '-infinity',
    ADD COLUMN final_id     bigint      NOT NULL DEFAULT 0,
    ADD COLUMN final_id_at  timestamptz NOT NULL DEFAULT '-infinity';

-- A low watermark rises only after every transaction has ended that could insert below it,
-- in whatever lane.
UPDATE outbox.round SET final_id = m.id, closed_id = m.id
FROM (SELECT greatest(max(low_id) - 1, 0) AS id FROM outbox.lane HAVING count(*) > 0) m;

---- create above / drop below ----

ALTER TABLE outbox.round DROP COLUMN closed_id, DROP COLUMN closed_id_at, DROP COLUMN final_id, DROP COLUMN final_id_at;
