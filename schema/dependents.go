package schema

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// dependentsSQL names objects of other programs that use a column that has to change to
// COLLATE "C", or a primary key that the change replaces. The migrations themselves change the
// view outbox.status.
const dependentsSQL = `
WITH changing AS (
    SELECT a.attrelid, a.attnum
    FROM (VALUES ('pending', 'topic'), ('lane', 'topic'), ('topic', 'topic'), ('refusal', 'topic'),
                 ('dead_letter', 'topic'), ('dead_letter', 'key'), ('discarded', 'topic'),
                 ('operation', 'topic'), ('operation', 'kind')) c (name, field)
    JOIN pg_attribute a ON a.attrelid = to_regclass('outbox.' || c.name) AND a.attname = c.field
    WHERE a.attcollation <> 'pg_catalog."C"'::regcollation),
dependent AS (
    SELECT d.classid, d.objid
    FROM changing c JOIN pg_depend d ON (d.refclassid, d.refobjid, d.refobjsubid) = ('pg_class'::regclass, c.attrelid, c.attnum)
    LEFT JOIN pg_attrdef f ON (d.classid, d.objid) = ('pg_attrdef'::regclass, f.oid)
    WHERE d.classid IN ('pg_rewrite'::regclass, 'pg_proc'::regclass, 'pg_policy'::regclass, 'pg_trigger'::regclass, 'pg_publication_rel'::regclass)
       OR f.adnum <> c.attnum -- a generated column; the other is the column's own default
    UNION
    SELECT 'pg_constraint'::regclass, k.oid FROM pg_constraint k
    WHERE k.contype = 'f' AND k.confrelid IN (
        SELECT c.attrelid FROM changing c JOIN pg_class t ON t.oid = c.attrelid
        WHERE t.relname IN ('pending', 'dead_letter', 'discarded')))
SELECT coalesce(string_agg(name, ', ' ORDER BY name COLLATE "C"), '')
FROM (SELECT DISTINCT o.type || ' ' || o.identity AS name
      FROM dependent d
      LEFT JOIN pg_rewrite r ON (d.classid, d.objid) = ('pg_rewrite'::regclass, r.oid)
      LEFT JOIN pg_class v ON v.oid = r.ev_class AND r.rulename = '_RETURN'
      CROSS JOIN LATERAL pg_identify_object(CASE WHEN v.oid IS NULL THEN d.classid ELSE 'pg_class'::regclass END, coalesce(v.oid, d.objid), 0) o
      WHERE r.ev_class IS DISTINCT FROM to_regclass('outbox.status')) named`

// refuseDependents returns an error that names the objects that would stop a migration, before
// the first migration runs.
func refuseDependents(ctx context.Context, conn *pgx.Conn) error {
	var names string
	if err := conn.QueryRow(ctx, dependentsSQL).Scan(&names); err != nil {
		return fmt.Errorf("look for objects that depend on the outbox: %w", err)
	}
	if names != "" {
		return fmt.Errorf("PostgreSQL cannot change columns of the outbox while other objects use them: %s: drop these objects, run this again, and create them again", names)
	}
	return nil
}

// withRemedy adds the remedy to an error of a migration that the database's owner can repair.
func withRemedy(err error) error {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return err
	}
	switch pg.Code {
	case "23505": // unique_violation
		return fmt.Errorf("a table of the outbox has two rows under one key: %s See docs/runbook.md, \"migrate finds two rows under one key\": %w", pg.Detail, err)
	case "2BP01", "0A000": // dependent_objects_still_exist, feature_not_supported: the type of a column that is used
		return fmt.Errorf("an object of another program depends on the outbox: drop that object, run this again, and create the object again: %w: %s", err, pg.Detail)
	}
	return err
}
