-- Whose turn it is to look at all topics, so that of several workers one looks and the
-- database has to answer no more for a hundred of them than for one. One row.
CREATE TABLE outbox.sample (
    one    boolean     PRIMARY KEY DEFAULT true CHECK (one),
    by     text        NOT NULL DEFAULT '',          -- the worker that looked last
    due_at timestamptz NOT NULL DEFAULT '-infinity'  -- from then on somebody may look again
) WITH (fillfactor = 50); -- updated every ten seconds, in place
INSERT INTO outbox.sample DEFAULT VALUES;

-- Where schema/roles.sql has been run, the relay's role goes on without running it
-- again.
DO $$ BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'outbox_relay') THEN
        GRANT SELECT, UPDATE ON outbox.sample TO outbox_relay;
    END IF;
END $$;

---- create above / drop below ----

DROP TABLE outbox.sample;
