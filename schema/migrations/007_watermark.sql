-- The low watermark of a lane waits for the transactions that may still insert an event
-- below it, and for no others.

-- Marks are noted in rounds. A mark belongs to the round that was current when its ids
-- were read. To close a round, a worker makes the next one current, commits, and then
-- lists the transactions that hold RowExclusiveLock on outbox.event. A transaction takes
-- that lock before it draws an id. So every transaction that drew an id below a mark of
-- the closed round has ended or is in the list. The round has ended when all of them have.
CREATE TABLE outbox.round (
    one     boolean PRIMARY KEY DEFAULT true CHECK (one),
    number  bigint  NOT NULL DEFAULT 1, -- the current round
    ended   bigint  NOT NULL DEFAULT 0, -- this round and all before it have ended
    writers text[],                     -- listed when round number - 1 was closed; null: not listed yet
    closed_at timestamptz NOT NULL DEFAULT '-infinity' -- so that all workers together close one a second
) WITH (fillfactor = 50); -- updated up to three times a second, in place
INSERT INTO outbox.round DEFAULT VALUES;

-- The next low watermark of a lane, and its round. low_id follows when that round has
-- ended and nothing is pending between the two. Workers of the version before use
-- seen_id, seen_at and seen_xid instead and leave these columns alone.
ALTER TABLE outbox.lane
    ADD COLUMN mark_id    bigint NOT NULL DEFAULT 0,
    ADD COLUMN mark_round bigint NOT NULL DEFAULT 0;

-- Where schema/roles.sql has been run, the relay's role goes on without running it
-- again.
DO $$ BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'outbox_relay') THEN
        GRANT SELECT, UPDATE ON outbox.round TO outbox_relay;
    END IF;
END $$;

---- create above / drop below ----

ALTER TABLE outbox.lane DROP COLUMN mark_id, DROP COLUMN mark_round;
DROP TABLE outbox.round;
