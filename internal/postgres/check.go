package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/temporal-outbox/relay/internal/program"
)

const reachSQL = `SELECT to_regnamespace('outbox') IS NOT NULL, pg_is_in_recovery(), current_setting('transaction_read_only') = 'on', session_user::text`

// Reach connects, and checks that the database has an outbox and that the server can write. Its
// errors name the remedy. If a connection cannot write, Reach closes all connections of the pool,
// so that the next calls connect again.
func (s *Store) Reach(ctx context.Context) error {
	ctx, cancel := s.limit(ctx)
	defer cancel()
	var there bool
	now := session{isolation: readCommitted} // prepare checked it for each connection
	if err := s.pool.QueryRow(ctx, reachSQL).Scan(&there, &now.inRecovery, &now.readOnly, &now.role); err != nil {
		return fmt.Errorf("connect to the database: %w", err)
	}
	if err := now.check(); err != nil {
		s.reset()
		return err
	}
	if !there {
		return fmt.Errorf("the database has no outbox: run %q", program.Starter("migrate"))
	}
	return nil
}

// rightsSQL lists the rights that the relay needs and its role lacks, and the objects that do not
// exist because a later migration makes them. The catalogue shows tables even without USAGE on
// their schema.
const rightsSQL = `
WITH needed(kind, name, privilege) AS (VALUES
    ('table', 'event', 'SELECT'), ('table', 'pending', 'SELECT'), ('table', 'pending', 'INSERT'), ('table', 'pending', 'DELETE'),
    ('table', 'lane', 'SELECT'), ('table', 'lane', 'INSERT'), ('table', 'lane', 'UPDATE'), ('table', 'lane', 'DELETE'),
    ('table', 'topic', 'SELECT'), ('table', 'topic', 'INSERT'), ('table', 'topic', 'UPDATE'),
    ('table', 'dead_letter', 'SELECT'), ('table', 'dead_letter', 'INSERT'), ('table', 'dead_letter', 'DELETE'),
    ('table', 'discarded', 'SELECT'), ('table', 'discarded', 'INSERT'), ('table', 'discarded', 'DELETE'),
    ('table', 'refusal', 'SELECT'), ('table', 'refusal', 'INSERT'), ('table', 'refusal', 'UPDATE'), ('table', 'refusal', 'DELETE'),
    ('table', 'operation', 'SELECT'), ('table', 'operation', 'INSERT'),
    ('table', 'sample', 'SELECT'), ('table', 'sample', 'UPDATE'), ('table', 'round', 'SELECT'), ('table', 'round', 'UPDATE'),
    ('column', 'topic.failing_since', 'UPDATE'),
    ('table', 'receipt', 'SELECT'), ('table', 'receipt', 'INSERT'),
    ('table', 'receipt_topic', 'SELECT'), ('table', 'receipt_topic', 'INSERT'), ('table', 'receipt_topic', 'UPDATE'), ('table', 'receipt_topic', 'DELETE'),
    ('function', 'make_receipt_partition(date)', 'EXECUTE'), ('function', 'drop_receipt_partition(date)', 'EXECUTE'),
    ('table', 'share', 'SELECT'), ('table', 'share', 'UPDATE'), ('column', 'lane.apart', 'UPDATE'),
    ('table', 'dated', 'SELECT'), ('table', 'dated', 'DELETE'),
    ('table', 'worker', 'SELECT'), ('table', 'worker', 'INSERT'), ('table', 'worker', 'UPDATE'), ('table', 'worker', 'DELETE'),
    ('function', 'share_is_free(smallint)', 'EXECUTE'),
    ('column', 'operation.workflow_id', 'UPDATE'), ('column', 'operation.done', 'UPDATE'), ('column', 'operation.holder', 'UPDATE'),
    ('column', 'operation.next_after', 'UPDATE'), ('column', 'operation.lanes_after', 'UPDATE'),
    ('column', 'operation.finished_at', 'UPDATE'), ('column', 'operation.outcome', 'UPDATE'),
    ('column', 'operation.marked', 'UPDATE'), ('column', 'operation.took', 'UPDATE'),
    ('column', 'pending.operation', 'INSERT'), ('column', 'dead_letter.operation', 'INSERT'),
    ('function', 'make_partition(date)', 'EXECUTE'), ('function', 'drop_partition(date)', 'EXECUTE'),
    ('function', 'caught()', 'EXECUTE'), ('function', 'delete_caught(date, bigint)', 'EXECUTE'),
    ('function', 'shrink_pending()', 'EXECUTE')),
found AS (
    SELECT n.kind, n.name, n.privilege, coalesce(t.oid, f.oid) AS oid, a.attnum AS number
    FROM needed n
    LEFT JOIN pg_class t ON n.kind IN ('table', 'column') AND t.relnamespace = to_regnamespace('outbox')
                        AND t.relname = split_part(n.name, '.', 1)
    LEFT JOIN pg_attribute a ON n.kind = 'column' AND a.attrelid = t.oid AND a.attname = split_part(n.name, '.', 2)
    LEFT JOIN pg_proc  f ON n.kind = 'function' AND f.pronamespace = to_regnamespace('outbox')
                        AND f.proname || '(' || oidvectortypes(f.proargtypes) || ')' = n.name)
SELECT has_schema_privilege(to_regnamespace('outbox')::oid, 'USAGE'),
       array(SELECT DISTINCT CASE WHEN oid IS NULL THEN split_part(name, '.', 1) ELSE name END AS what FROM found
             WHERE oid IS NULL OR kind = 'column' AND number IS NULL ORDER BY what),
       array(SELECT privilege || ' ' || name FROM found
             WHERE kind = 'table' AND NOT has_table_privilege(oid, privilege)
                OR kind = 'column' AND NOT has_column_privilege(oid, number, privilege)
                OR kind = 'function' AND NOT has_function_privilege(oid, privilege)
             ORDER BY name, privilege),
       current_user::text,
       has_table_privilege('pg_catalog.pg_locks', 'SELECT') AND has_function_privilege('pg_catalog.pg_lock_status()', 'EXECUTE')`

// Rights checks that the role has all rights that the relay needs. Its errors name the missing
// rights, and the remedy.
func (s *Store) Rights(ctx context.Context) error {
	ctx, cancel := s.limit(ctx)
	defer cancel()
	var usage, locks bool
	var absent, lacking []string
	var role string
	if err := s.pool.QueryRow(ctx, rightsSQL).Scan(&usage, &absent, &lacking, &role, &locks); err != nil {
		return fmt.Errorf("check rights on the outbox: %w", err)
	}
	if len(absent) > 0 {
		return fmt.Errorf("the outbox is older than this program and has no %s: run %q", strings.Join(absent, ", "), program.Starter("migrate"))
	}
	if !locks {
		return fmt.Errorf("the database role %s may not read pg_locks, so low watermarks do not rise and publishing becomes slower: "+
			"run \"GRANT SELECT ON pg_catalog.pg_locks TO %s\" and \"GRANT EXECUTE ON FUNCTION pg_catalog.pg_lock_status() TO %s\" as a superuser", role, role, role)
	}
	if !usage {
		lacking = append([]string{"USAGE of the schema"}, lacking...)
	}
	if len(lacking) > 0 {
		return errors.New("the database role " + role + " may not use the outbox: it lacks " + strings.Join(lacking, ", ") +
			": run schema/roles.sql and grant outbox_relay to it")
	}
	return nil
}

// Check connects, and checks that the outbox exists, that the role has the rights to use it, and
// that no row is hidden. Its errors name the remedy.
func (s *Store) Check(ctx context.Context) error {
	if err := s.Reach(ctx); err != nil {
		return err
	}
	return errors.Join(s.Rights(ctx), s.Security(ctx))
}
