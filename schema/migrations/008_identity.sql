-- An event is known by its id and its time together. After the promotion of a standby that
-- lagged, or a restore, the sequence gives ids again; it does not give times again.

-- Null: the row is of a worker of the version before.
ALTER TABLE outbox.refusal ADD COLUMN created_at timestamptz;

-- The number of an operation is also that of its workflow and of a replay's deliveries,
-- so another history of the database must not give it to another operation: it is the
-- time in microseconds since 1970. (JSON keeps integers below 2^53 exact: until 2255.)
ALTER TABLE outbox.operation ALTER COLUMN id DROP IDENTITY;
ALTER TABLE outbox.operation ALTER COLUMN id SET DEFAULT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint;

---- create above / drop below ----

ALTER TABLE outbox.refusal DROP COLUMN created_at;
ALTER TABLE outbox.operation ALTER COLUMN id DROP DEFAULT;
ALTER TABLE outbox.operation ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (START 9000000000000000);
