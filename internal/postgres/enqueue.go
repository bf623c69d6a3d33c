package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/temporal-outbox/relay/internal/program"
)

// Enqueue says whether inserted events become pending. A trigger of outbox.event makes them
// pending. An event without the trigger is never published, and no table shows that.
type Enqueue struct {
	trigger string // its state, as in pg_trigger.tgenabled; empty without a trigger
	replica bool   // sessions replicate by default
	roles   string // roles whose own setting makes their sessions replicate
	rights  string // roles that may insert into partitions, which fires no trigger
}

// enqueueSQL reads only catalogues that every role may read.
const enqueueSQL = `
SELECT coalesce((SELECT t.tgenabled::text FROM pg_trigger t
                 WHERE t.tgrelid = 'outbox.event'::regclass AND t.tgfoid = 'outbox.enqueue'::regproc LIMIT 1), ''),
       (SELECT reset_val = 'replica' FROM pg_settings WHERE name = 'session_replication_role'),
       coalesce((SELECT string_agg(DISTINCT r.rolname, ', ' ORDER BY r.rolname)
                 FROM pg_db_role_setting s JOIN pg_roles r ON r.oid = s.setrole
                 WHERE 'session_replication_role=replica' = ANY (s.setconfig)
                   AND s.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))), ''),
       coalesce((SELECT string_agg(DISTINCT coalesce(r.rolname, 'PUBLIC'), ', ')
                 FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid CROSS JOIN aclexplode(c.relacl) a
                 LEFT JOIN pg_roles r ON r.oid = a.grantee
                 WHERE i.inhparent = 'outbox.event'::regclass AND a.privilege_type = 'INSERT' AND a.grantee <> c.relowner), '')`

// Enqueue reads the trigger and the settings that decide whether inserted events become pending.
func (s *Store) Enqueue(ctx context.Context) (e Enqueue, err error) {
	ctx, cancel := s.limit(ctx)
	defer cancel()
	if err := s.pool.QueryRow(ctx, enqueueSQL).Scan(&e.trigger, &e.replica, &e.roles, &e.rights); err != nil {
		return e, fmt.Errorf("look at the trigger of outbox.event: %w", err)
	}
	return e, nil
}

// Failure says that no inserted event becomes pending, and names the remedy.
func (e Enqueue) Failure() error {
	after := "; then publish the events that were written meanwhile: " + program.Starter("replay TOPIC --since … --until … --reason …") + ", for each topic " +
		"(consumers get published events of that time a second time)"
	switch e.trigger {
	case "O", "A": // in sessions that do not replicate, and in all
		return nil
	case "":
		return errors.New("outbox.event has no trigger that calls outbox.enqueue, so inserted events never become pending: " +
			"CREATE TRIGGER enqueue AFTER INSERT ON outbox.event REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT EXECUTE FUNCTION outbox.enqueue()" + after)
	default:
		return errors.New("the trigger of outbox.event is disabled, so inserted events never become pending: " +
			"ALTER TABLE outbox.event ENABLE TRIGGER enqueue" + after)
	}
}

// Warning says that some inserted events may not become pending.
func (e Enqueue) Warning() error {
	var why []string
	if e.replica {
		why = append(why, "session_replication_role is replica by default")
	}
	if e.roles != "" {
		why = append(why, "session_replication_role is replica for "+e.roles)
	}
	if e.rights != "" {
		why = append(why, e.rights+" may insert into partitions, which fires no trigger")
	}
	if len(why) == 0 {
		return nil
	}
	return errors.New("some inserted events may never become pending: " + strings.Join(why, "; "))
}
