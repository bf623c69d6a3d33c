-- What operators did, and why: one row for each command that changed something.
-- Nothing reads it but people, and nothing ever changes or deletes a row.
CREATE TABLE outbox.operation (
    id          bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at          timestamptz NOT NULL DEFAULT now(),
    kind        text        NOT NULL, -- pause, resume, ...
    topic       text        NOT NULL,
    by          text        NOT NULL,
    reason      text        NOT NULL,
    workflow_id text        NOT NULL DEFAULT '' -- that does it, if it takes long
);

DO $$ BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'outbox_relay') THEN
        GRANT SELECT, INSERT ON outbox.operation TO outbox_relay;
    END IF;
END $$;

---- create above / drop below ----

DROP TABLE outbox.operation;
