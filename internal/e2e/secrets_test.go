package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"

	"github.com/temporal-outbox/relay/internal/testenv"
)

// What may be in outbox.event, in AWS and in the environment of the programs, and
// nowhere else.
const (
	payloadMarker   = "P4yl0adTh4tNob0dyElseMayRead"
	attributeMarker = "Attr1buteTh4tNob0dyElseMayRead"
	passwordMarker  = "Passw0rdTh4tNob0dyElseMayRead"
	secretMarker    = "AwsS3cretTh4tNob0dyElseMayRead"
)

// secretive is an outbox with one destination whose programs log in to the database
// as a user with a password and no more rights than the relay's role, and that sign
// for AWS with a key of their own.
func secretive(t *testing.T, destination string) *outbox {
	t.Helper()
	o := newOutbox(t, "topics:\n  orders: {sqs: "+destination+"}\n")
	testenv.RoleURL(t, o.db, "outbox_relay")
	user := strings.ToLower(testenv.Name(t))
	name := pgx.Identifier{user}.Sanitize()
	o.exec(`CREATE ROLE ` + name + ` LOGIN PASSWORD '` + passwordMarker + `'`)
	o.exec(`GRANT outbox_relay TO ` + name)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_, err := o.db.Exec(ctx, `DROP ROLE `+name)
		assert.NoError(t, err)
	})
	u, err := url.Parse(o.url)
	require.NoError(t, err)
	u.User = url.UserPassword(user, passwordMarker)
	o.env = append(o.env, "DATABASE_URL="+u.String(), "AWS_SECRET_ACCESS_KEY="+secretMarker)
	return o
}

// writeMarked writes n sound events with the markers.
func (o *outbox) writeMarked(n int) {
	o.t.Helper()
	o.exec(`INSERT INTO outbox.event (topic, key, type, payload, attributes)
	        SELECT 'orders', 'key-' || i % 10, 'Tested', $1 || '-' || i, jsonb_build_object('note', $2::text)
	        FROM generate_series(1, $3::int) i`, payloadMarker, attributeMarker, n)
}

// writeRefused writes one event with the markers that is poison, and one that is too
// large.
func (o *outbox) writeRefused() {
	o.t.Helper()
	for _, payload := range []string{`$1 || E' \x07 ' || $1`, `$1 || ` + oversize} {
		o.exec(`INSERT INTO outbox.event (topic, key, type, payload, attributes)
		        VALUES ('orders', 'refused', 'Tested', `+payload+`, jsonb_build_object('note', $2::text))`, payloadMarker, attributeMarker)
	}
}

// run gives a command and keeps what it says.
func (e evidence) run(o *outbox, status int, args ...string) ran {
	o.t.Helper()
	r := o.command(args...)
	require.Equal(o.t, status, r.status, "%v: %s%s", args, r.out, r.err)
	e.add("output of the starter", strings.Join(args, " ")+"\n"+r.out+r.err)
	return r
}

func TestSecrets_PayloadsAndAttributesAreReadableOnlyWhereTheyBelong(t *testing.T) {
	t.Parallel()
	const n = 50
	q := newQueue(t, testenv.Name(t))
	o := secretive(t, q.name)
	c := testenv.Temporal(t)
	seen := evidence{}
	w := o.work("OUTBOX_LOG_LEVEL=debug")
	why := []string{"--by", "ada", "--reason", "a test", "--yes"}

	// Published, refused one by one, and after a database that broke off.
	seen.run(o, 0, "schedule", "--every", "2s", "--run-for", "3s", "--maintain-every", "1s")
	o.unschedule(o.queue)
	o.unschedule(o.queue + "-maintenance")
	o.writeRefused()
	o.writeMarked(n)
	o.exec(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
	        AND usename <> current_user`)
	o.drained(30 * time.Second)
	for _, m := range q.receive(n, 30*time.Second) {
		require.Contains(t, *m.Body, payloadMarker, "it is in what is published")
		require.Equal(t, attributeMarker, *m.MessageAttributes["note"].StringValue)
	}
	require.Equal(t, 2, o.count(`SELECT count(*) FROM outbox.dead_letter`))
	id := seen.deadLetter(o)

	// Broken, and parked.
	q.remove()
	o.writeMarked(n)
	o.recovering(c, "orders")
	seen.addTemporal(o, c)
	seen.addTables(o)
	seen.addHTTP(w)
	seen.run(o, 0, "recover", "orders", "--now", "--by", "ada", "--reason", "a test")
	for o.pending() > 0 {
		o.recovering(c, "orders")
		seen.run(o, 0, append([]string{"recover", "orders", "--park"}, why...)...)
		testenv.Eventually(t, 30*time.Second, func() error { return o.settledOrRecovering(c) })
	}

	// Redriven, replayed, discarded.
	back := newQueue(t, q.name)
	again := seen.run(o, 1, append([]string{"dead", "redrive", "orders", "--all"}, why...)...)
	require.Contains(t, again.out, "0 pending, 2 dead again", "those that were refused one by one")
	o.drained(60 * time.Second)
	back.receive(n, 30*time.Second)
	seen.run(o, 0, append([]string{"replay", "orders", "--all"}, why...)...)
	o.drained(60 * time.Second)
	seen.run(o, 0, append([]string{"dead", "discard", "orders", "--code", "EventTooLarge"}, why...)...)
	seen.run(o, 0, "pause", "orders", "--by", "ada", "--reason", "a test")
	seen.run(o, 0, "status")
	seen.run(o, 0, "resume", "orders")
	seen.run(o, 0, "where", id)
	seen.run(o, 0, "where", "--topic", "orders", "--key", "refused")

	seen.addFailedStarts(o)
	seen.addTemporal(o, c)
	seen.addTables(o)
	seen.addHTTP(w)
	w.stop()
	seen.add("log of the worker", w.text())

	for _, place := range []string{"history of Relay", "history of Recovery", "history of Operation", "history of Maintenance", "current details"} {
		require.Contains(t, seen, place)
	}
	require.Contains(t, seen["history of Relay"], `"topic":"orders"`, "payloads are decoded")
	require.Contains(t, seen["description of Recovery"], "NonExistentQueue", "the failure of a pending activity is read")
	require.Contains(t, seen["outbox.dead_letter"], "EventTooLarge")
	require.Contains(t, seen["outbox.operation"], "replay")
	require.Contains(t, seen["log of the worker"], "level=DEBUG")
	seen.requireWithout(t, payloadMarker, attributeMarker, passwordMarker, secretMarker)
	require.Contains(t, o.command("dead", "show", id, "--payload").out, payloadMarker, "who asks for it sees it")
}

// deadLetter looks at the dead letters as people do, and returns the id of one.
func (e evidence) deadLetter(o *outbox) (id string) {
	o.t.Helper()
	require.NoError(o.t, o.db.QueryRow(o.t.Context(), `SELECT event_id::text FROM outbox.status WHERE code LIKE 'Invalid%'`).Scan(&id))
	e.run(o, 0, "dead", "list")
	e.run(o, 0, "dead", "list", "orders")
	e.run(o, 0, "dead", "list", "orders", "--json")
	return id
}

// settledOrRecovering waits until it is known whether all of a topic is parked.
func (o *outbox) settledOrRecovering(c client.Client) error {
	if o.pending() == 0 {
		return nil
	}
	d, err := c.DescribeWorkflowExecution(o.t.Context(), o.recoveryID("orders"), "")
	if err != nil {
		return err
	}
	if a := d.GetPendingActivities(); len(a) != 1 || a[0].GetLastFailure() == nil {
		return errors.New("some events are pending, and their recovery has not begun")
	}
	return nil
}

// addFailedStarts adds what both programs say to a database that is away, and to a URL
// that is none.
func (e evidence) addFailedStarts(o *outbox) {
	o.t.Helper()
	for _, url := range []string{
		"postgres://relay:" + passwordMarker + "@127.0.0.1:1/none?connect_timeout=2",
		"postgres://relay:an@" + passwordMarker + "@127.0.0.1:1/none?connect_timeout=2",
		"postgres://relay:" + passwordMarker + "@127.0.0.1:none/none",
	} {
		e.add("log of a worker that did not start", o.refused("DATABASE_URL="+url))
		for _, command := range []string{"status", "migrate"} {
			r := o.commandIn(append(append([]string{}, o.env...), "DATABASE_URL="+url), command)
			require.NotZero(o.t, r.status)
			e.add("output of a starter without a database", fmt.Sprint(r.out, r.err))
		}
	}
}
