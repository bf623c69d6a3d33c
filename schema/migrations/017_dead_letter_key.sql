-- The index by which dead letters of a key are found, built beside the relay. Where an
-- earlier release has made it, nothing changes. Each statement may be run again: an index
-- whose build was interrupted is dropped first.

---- tern: disable-tx ----

SET lock_timeout = '50ms';
SET statement_timeout = 0;
DO $$ BEGIN
    IF EXISTS (SELECT FROM pg_index WHERE indexrelid = to_regclass('outbox.dead_letter_key') AND NOT indisvalid) THEN
        DROP INDEX outbox.dead_letter_key;
    END IF;
    IF to_regclass('outbox.dead_letter_key') IS NULL THEN
        RAISE INFO 'A new index of outbox.dead_letter is built while everything goes on. This waits for all transactions that are open in the database, also of other programs.';
    END IF;
END $$;
SET lock_timeout = 0;
CREATE INDEX CONCURRENTLY IF NOT EXISTS dead_letter_key ON outbox.dead_letter (topic, key) WHERE key <> '';
DROP INDEX CONCURRENTLY IF EXISTS outbox.dead_letter_key_in_c;
SET lock_timeout = '50ms'; -- as before: see Migrate

---- create above / drop below ----

-- An earlier migration may have made the index, so it stays. A part that is empty could not
-- be reversed.
SELECT 1;
