package e2e

import (
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/testenv"
)

// A host that is not this machine is tried first, and is not there.
func TestWorker_WarnsOnceThatItMayReachItsDatabaseInPlainTextAndStarts(t *testing.T) {
	t.Parallel()
	o := newOutbox(t, "topics:\n  orders: {sqs: q}\n")
	u, err := url.Parse(o.url)
	require.NoError(t, err)
	u.Host = "db.invalid:5432," + u.Host
	u.RawQuery = ""
	env := []string{"DATABASE_URL=" + u.String(), "PGSSLMODE="}
	w := o.work(env...)
	w.stop()
	const remedy = "add sslmode=verify-full"
	require.Equal(t, 1, strings.Count(w.text(), remedy), w.text())
	require.Regexp(t, `level=WARN .*`+remedy, w.text())

	out, _ := o.check(env)
	require.Regexp(t, `^warning .*`+remedy, line(t, out, "encryption"))
	require.Regexp(t, `^ok `, line(t, out, "database"))
	withTLS, _ := o.check([]string{"DATABASE_URL=" + u.String() + "?sslmode=verify-full", "PGSSLMODE="})
	require.NotContains(t, withTLS, "encryption")
	local, _ := o.check(nil)
	require.NotContains(t, local, "encryption")
}

func TestCheck_DoesNotFailForAWarning(t *testing.T) {
	t.Parallel()
	q := newQueue(t, testenv.Name(t))
	o := newOutbox(t, "topics:\n  orders: {sqs: "+q.name+"}\n")
	u, err := url.Parse(o.url)
	require.NoError(t, err)
	u.Host = "db.invalid:5432," + u.Host
	out, status := o.check([]string{"DATABASE_URL=" + u.String()})
	require.Contains(t, out, "warning")
	require.Zero(t, status, out)
}
