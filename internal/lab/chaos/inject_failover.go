package chaos

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/temporal-outbox/relay/internal/lab/chaos/plan"
)

// oldPrimarySQL makes the tables for records that only an old primary had.
const oldPrimarySQL = `
CREATE TABLE chaos.lost_event (event_id uuid);
CREATE TABLE chaos.lost_replay (event_id uuid, replay bigint, at timestamptz);
CREATE TABLE chaos.undone (event_id uuid, at timestamptz); -- settlements
CREATE TABLE chaos.unpended (event_id uuid, at timestamptz); -- redrives and replays
CREATE TABLE chaos.set_back (id bigint); -- operations that had ended`

// slack is how long before an instant a transaction may have begun that had not ended.
const slack = time.Minute

// failoverAudit are the records that the harness reads from the old primary before it is gone.
// Those that the new primary lacks are then written to it.
var failoverAudit = []struct {
	name          string
	columns       string // of the temporary table, with types
	read, compare string
}{
	{
		"event", "event_id uuid",
		`SELECT event_id FROM chaos.event WHERE at >= $1`,
		`INSERT INTO chaos.lost_event SELECT event_id FROM old_event o WHERE NOT EXISTS (
		     SELECT FROM chaos.event e WHERE e.event_id = o.event_id AND e.at >= $1)`,
	},
	{
		"replayed", "event_id uuid, replay bigint, at timestamptz",
		`SELECT e.event_id, r.replay, r.at FROM chaos.replayed r JOIN chaos.event e USING (id) WHERE r.at >= $1`,
		`INSERT INTO chaos.lost_replay SELECT * FROM old_replayed o WHERE NOT EXISTS (
		     SELECT FROM chaos.replayed r JOIN chaos.event e USING (id) WHERE (e.event_id, r.replay, r.at) = (o.event_id, o.replay, o.at))`,
	},
	{
		"settled", "event_id uuid, at timestamptz",
		`SELECT e.event_id, s.at FROM chaos.settled s JOIN chaos.event e USING (id, created_at) WHERE s.at >= $1`,
		`INSERT INTO chaos.undone SELECT * FROM old_settled EXCEPT
		     SELECT e.event_id, s.at FROM chaos.settled s JOIN chaos.event e USING (id, created_at) WHERE s.at >= $1`,
	},
	{
		"pended", "event_id uuid, at timestamptz",
		`SELECT e.event_id, p.at FROM chaos.pended p JOIN chaos.event e USING (id, created_at) WHERE p.at >= $1`,
		`INSERT INTO chaos.unpended SELECT * FROM old_pended EXCEPT
		     SELECT e.event_id, p.at FROM chaos.pended p JOIN chaos.event e USING (id, created_at) WHERE p.at >= $1`,
	},
	{
		"held", "topic text, lane smallint, at timestamptz, holder uuid, process text, share boolean",
		`SELECT topic, lane, at, holder, process, share FROM chaos.held WHERE at >= $1`,
		`INSERT INTO chaos.held SELECT *, true FROM (
		     SELECT * FROM old_held EXCEPT SELECT topic, lane, at, holder, process, share FROM chaos.held WHERE at >= $1) lost`,
	},
	{
		"shared", "lane smallint, at timestamptz, holder uuid, process text",
		`SELECT lane, at, holder, process FROM chaos.shared WHERE at >= $1`,
		`INSERT INTO chaos.shared SELECT *, true FROM (
		     SELECT * FROM old_shared EXCEPT SELECT lane, at, holder, process FROM chaos.shared WHERE at >= $1) lost`,
	},
	{
		"dropped", "partition text, at timestamptz, events bigint, needed bigint",
		`SELECT partition, at, 0::bigint, needed FROM chaos.dropped WHERE at >= $1 AND needed > 0`, // the events are there again
		`INSERT INTO chaos.dropped SELECT * FROM old_dropped o WHERE (o.partition, o.at) NOT IN (SELECT partition, at FROM chaos.dropped)`,
	},
	{ // The record says that they are under way, and nothing does them any more.
		"operation", "id bigint", `SELECT id FROM outbox.operation WHERE finished_at IS NOT NULL AND $1::timestamptz IS NOT NULL`,
		`INSERT INTO chaos.set_back SELECT id FROM old_operation JOIN outbox.operation USING (id) WHERE finished_at IS NULL`,
	},
	{
		"set_back", "id bigint", `SELECT id FROM chaos.set_back WHERE $1::timestamptz IS NOT NULL`,
		`INSERT INTO chaos.set_back SELECT id FROM old_set_back EXCEPT SELECT id FROM chaos.set_back`,
	},
	{ // losses of earlier failovers, for a backup that was taken before them
		"lost_event", "event_id uuid", `SELECT event_id FROM chaos.lost_event WHERE $1::timestamptz IS NOT NULL`,
		`INSERT INTO chaos.lost_event SELECT event_id FROM old_lost_event EXCEPT SELECT event_id FROM chaos.lost_event`,
	},
	{
		"lost_replay", "event_id uuid, replay bigint, at timestamptz", `SELECT * FROM chaos.lost_replay WHERE $1::timestamptz IS NOT NULL`,
		`INSERT INTO chaos.lost_replay SELECT * FROM old_lost_replay EXCEPT SELECT * FROM chaos.lost_replay`,
	},
	{
		"undone", "event_id uuid, at timestamptz", `SELECT * FROM chaos.undone WHERE $1::timestamptz IS NOT NULL`,
		`INSERT INTO chaos.undone SELECT * FROM old_undone EXCEPT SELECT * FROM chaos.undone`,
	},
	{
		"unpended", "event_id uuid, at timestamptz", `SELECT * FROM chaos.unpended WHERE $1::timestamptz IS NOT NULL`,
		`INSERT INTO chaos.unpended SELECT * FROM old_unpended EXCEPT SELECT * FROM chaos.unpended`,
	},
}

// failOver makes a standby, lets it lag for a while, and promotes it. The old primary
// never comes back.
func (fx *fixture) failOver(ctx context.Context, step plan.Step) error {
	return fx.replaced(ctx, step, func(ctx context.Context, replace func(from time.Time, with func(context.Context) error) error) error {
		if !fx.cluster.HasStandby() {
			if err := fx.cluster.AddStandby(ctx); err != nil {
				return err
			}
		}
		if err := fx.cluster.Lag(ctx); err != nil {
			return err
		}
		from := time.Now()
		fx.say("the standby lags from now on")
		wait(ctx, step.For)
		return replace(from, func(ctx context.Context) error {
			if step.Kind == plan.FailOverEarly {
				if err := fx.cluster.FollowStandby(); err != nil {
					return err
				}
				fx.say("clients reach the standby, which is not promoted yet")
				wait(ctx, 2*time.Second)
			}
			return fx.cluster.Promote(ctx)
		})
	})
}

// restore takes a backup, and restores it after a while.
func (fx *fixture) restore(ctx context.Context, step plan.Step) error {
	return fx.replaced(ctx, step, func(ctx context.Context, replace func(from time.Time, with func(context.Context) error) error) error {
		from := time.Now()
		backup, err := fx.cluster.Backup(ctx)
		if err != nil {
			return err
		}
		wait(ctx, step.For)
		return replace(from, func(ctx context.Context) error { return fx.cluster.Restore(ctx, backup) })
	})
}

// replaced runs a step that replaces the primary. No other step touches the servers
// meanwhile. Afterwards the new primary has the records that only the old one had.
func (fx *fixture) replaced(ctx context.Context, step plan.Step,
	do func(ctx context.Context, replace func(from time.Time, with func(context.Context) error) error) error,
) error {
	fx.servers.Lock()
	defer fx.servers.Unlock()
	// Even if ctx has ended: the rest of the run needs a primary.
	ctx = context.WithoutCancel(ctx)
	return do(ctx, func(from time.Time, with func(context.Context) error) error {
		fx.noteStartAt(step, from)
		if err := fx.cluster.Isolate(ctx); err != nil {
			fx.cluster.Rejoin()
			return err
		}
		known, err := fx.readOldPrimary(ctx, from.Add(-slack))
		if err != nil {
			fx.cluster.Rejoin()
			return err
		}
		fx.cluster.Kill()
		if err := with(ctx); err != nil {
			return err
		}
		lost, err := fx.tellNewPrimary(ctx, known, from.Add(-slack))
		if err != nil {
			return err
		}
		fx.count(string(step.Kind))
		fx.say("another primary is there; %d commits are lost", lost)
		return nil
	})
}

// readOldPrimary reads the records from the old primary that the new one may lack.
func (fx *fixture) readOldPrimary(ctx context.Context, since time.Time) (known [][][]any, err error) {
	u, err := onDatabase(fx.cluster.PrimaryURL(), fx.token, "")
	if err != nil {
		return nil, err
	}
	conn, err := pgx.Connect(ctx, u)
	if err != nil {
		return nil, fmt.Errorf("read from the old primary: %w", err)
	}
	defer conn.Close(ctx)
	for _, m := range failoverAudit {
		rows, err := conn.Query(ctx, m.read, since)
		if err != nil {
			return nil, fmt.Errorf("read from the old primary: %w", err)
		}
		list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) ([]any, error) { return row.Values() })
		if err != nil {
			return nil, fmt.Errorf("read from the old primary: %w", err)
		}
		known = append(known, list)
	}
	return known, nil
}

// compare writes the records that the new primary lacks into its tables, and returns how
// many commits are lost.
func (fx *fixture) tellNewPrimary(ctx context.Context, known [][][]any, since time.Time) (lost int, err error) {
	conn, err := pgx.Connect(ctx, fx.env.Get("DATABASE_URL"))
	if err != nil {
		return 0, fmt.Errorf("tell the new primary: %w", err)
	}
	defer conn.Close(ctx)
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		for i, m := range failoverAudit {
			name := "old_" + m.name
			if _, err := tx.Exec(ctx, "CREATE TEMPORARY TABLE "+name+" ("+m.columns+") ON COMMIT DROP"); err != nil {
				return err
			}
			if _, err := tx.CopyFrom(ctx, pgx.Identifier{name}, columnNames(m.columns), pgx.CopyFromRows(known[i])); err != nil {
				return err
			}
			sql, args := m.compare, []any{}
			if strings.Contains(sql, "$1") {
				args = append(args, since)
			}
			done, err := tx.Exec(ctx, sql, args...)
			if err != nil {
				return fmt.Errorf("%s: %w", m.name, err)
			}
			if m.name == "event" {
				lost = int(done.RowsAffected())
			}
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("tell the new primary: %w", err)
	}
	return lost, nil
}

// columnNames are those of a table's definition.
func columnNames(definition string) (names []string) {
	for column := range strings.SplitSeq(definition, ", ") {
		name, _, _ := strings.Cut(column, " ")
		names = append(names, name)
	}
	return names
}

// ownCluster has clients reach the primary at an address that stays.
func (fx *fixture) ownCluster(ctx context.Context) (err error) {
	fx.cluster, err = fx.cfg.Stack.Cluster(ctx)
	if err != nil {
		return err
	}
	u, err := url.Parse(fx.env.Get("DATABASE_URL"))
	if err != nil {
		return errors.New("DATABASE_URL is no URL")
	}
	u.Host = fx.cluster.Address()
	fx.env = fx.env.With("DATABASE_URL=" + u.String())
	return nil
}
