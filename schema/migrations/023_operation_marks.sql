-- The operation that has made an event pending again, so that its command can say how many of its
-- events arrived and how many died again. A replay has its number in pending.replay already.
-- The columns are null or constant, so no row is written and no lock is held for long.
--
-- In pending: null, unless a redrive has put the row there. In dead_letter: the redrive that
-- had put the row into pending; 0 if none had; null if a worker of the version before
-- made the dead letter, because that worker does not carry the number over.
ALTER TABLE outbox.pending     ADD COLUMN operation bigint;
ALTER TABLE outbox.dead_letter ADD COLUMN operation bigint;
-- marked: of so many moved events it is known which operation had moved them before, and a
-- redrive has put its number on them. It is less than done if a worker of the version before
-- has moved some. took: the operations whose dead letters this one has moved since. If some had
-- no number, it begins with a negative one: of seconds since 1970, when the last of them died.
ALTER TABLE outbox.operation
    ADD COLUMN marked bigint   NOT NULL DEFAULT 0,
    ADD COLUMN took   bigint[] NOT NULL DEFAULT '{}';

-- The first run of a workflow that an operator has started by hand, for example in Temporal's UI.
-- Together with workflow_id it identifies the record: an attempt whose answer was lost finds it.
ALTER TABLE outbox.operation ADD COLUMN run_id text NOT NULL DEFAULT '';

-- Where schema/roles.sql has been run, the relay's role goes on without running it again.
DO $$ BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'outbox_relay') THEN
        GRANT UPDATE (marked, took) ON outbox.operation TO outbox_relay;
    END IF;
END $$;

---- create above / drop below ----

ALTER TABLE outbox.pending     DROP COLUMN operation;
ALTER TABLE outbox.dead_letter DROP COLUMN operation;
ALTER TABLE outbox.operation   DROP COLUMN marked, DROP COLUMN took, DROP COLUMN run_id;
