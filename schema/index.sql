-- Adds an index to the events, for "starter where" and "starter replay" in an outbox
-- that keeps many millions of them. "starter migrate" makes none, because every insert
-- would pay for it: see docs/decisions/013-no-index-on-key-and-event-id.md. As the owner:
--
--     psql "$DATABASE_URL" -v name=event_key -v columns='topic, key, id' -f schema/index.sql
--     psql "$DATABASE_URL" -v name=event_event_id -v columns='event_id' -f schema/index.sql
--
-- Producers and the relay continue meanwhile. Run it again if it was interrupted; a complete
-- index stays as it is. Partitions that are made later have the index, too. To remove the
-- index: DROP INDEX outbox.event_key.

\set ON_ERROR_STOP on
\set QUIET on
SET lock_timeout = '500ms'; -- rather fail, and be run again, than make producers wait

CREATE INDEX IF NOT EXISTS :"name" ON ONLY outbox.event (:columns);

-- Drop the invalid indexes that an interrupted run has left.
SELECT format('DROP INDEX %s', x.indexrelid::regclass)
FROM pg_index x
JOIN pg_inherits p ON p.inhrelid = x.indrelid AND p.inhparent = 'outbox.event'::regclass
JOIN pg_class c ON c.oid = x.indexrelid
WHERE NOT x.indisvalid AND c.relname LIKE '%' || :'name'
\gexec

-- Build the index on each partition without one. CONCURRENTLY waits for open transactions,
-- and makes no producer wait.
SET lock_timeout = 0;
SELECT format('CREATE INDEX CONCURRENTLY %I ON %s (%s)', c.relname || '_' || :'name', c.oid::regclass, :'columns')
FROM pg_inherits p JOIN pg_class c ON c.oid = p.inhrelid
WHERE p.inhparent = 'outbox.event'::regclass
  AND to_regclass(format('outbox.%I', c.relname || '_' || :'name')) IS NULL
  AND NOT EXISTS (
      SELECT FROM pg_inherits i JOIN pg_index x ON x.indexrelid = i.inhrelid
      WHERE i.inhparent = format('outbox.%I', :'name')::regclass AND x.indrelid = c.oid)
\gexec

SET lock_timeout = '500ms';
SELECT format('ALTER INDEX outbox.%I ATTACH PARTITION %s', :'name', x.indexrelid::regclass)
FROM pg_index x
JOIN pg_inherits p ON p.inhrelid = x.indrelid AND p.inhparent = 'outbox.event'::regclass
JOIN pg_class t ON t.oid = x.indrelid
JOIN pg_class c ON c.oid = x.indexrelid AND c.relname = t.relname || '_' || :'name'
WHERE NOT EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = x.indexrelid)
\gexec
