package testenv_test

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"go.temporal.io/api/workflowservice/v1"

	"github.com/temporal-outbox/relay/internal/testenv"
)

func TestDatabase_IsFreshAndMigrated(t *testing.T) {
	for i := range 3 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			pool := testenv.Database(t)
			var rows int
			require.NoError(t, pool.QueryRow(t.Context(), "SELECT count(*) FROM outbox.event").Scan(&rows))
			require.Zero(t, rows)
			_, err := pool.Exec(t.Context(), "CREATE TABLE mine ()")
			require.NoError(t, err, "another test's table is in this database")
		})
	}
}

func TestDatabase_IsDroppedWithItsTest(t *testing.T) {
	var name string
	t.Run("user", func(t *testing.T) {
		u, err := url.Parse(testenv.DatabaseURL(t))
		require.NoError(t, err)
		name = strings.TrimPrefix(u.Path, "/")
		// A process that the test forgot is no reason to keep the database.
		_, err = pgx.Connect(t.Context(), u.String())
		require.NoError(t, err)
	})
	var left int
	require.NoError(t, testenv.Database(t).QueryRow(t.Context(),
		"SELECT count(*) FROM pg_database WHERE datname = $1", name).Scan(&left))
	require.Zero(t, left)
}

func TestDatabase_OfAKilledTestIsDropped(t *testing.T) {
	pool := testenv.Database(t)
	const orphan = "outbox_test_0000000000000abc_7"
	_, err := pool.Exec(t.Context(), "CREATE DATABASE "+orphan)
	require.NoError(t, err)

	require.NoError(t, testenv.Sweep(t.Context()))

	var left, own int
	require.NoError(t, pool.QueryRow(t.Context(), "SELECT count(*) FROM pg_database WHERE datname = $1", orphan).Scan(&left))
	require.Zero(t, left)
	require.NoError(t, pool.QueryRow(t.Context(), "SELECT count(*) FROM outbox.event").Scan(&own), "a living test's database went too")
}

func TestServices_Answer(t *testing.T) {
	_, err := sqs.NewFromConfig(testenv.AWS(t)).ListQueues(t.Context(), &sqs.ListQueuesInput{})
	require.NoError(t, err)
	_, err = testenv.Temporal(t).WorkflowService().DescribeNamespace(t.Context(),
		&workflowservice.DescribeNamespaceRequest{Namespace: "default"})
	require.NoError(t, err)
}

func TestMissing_SkipsLocallyAndFailsInCI(t *testing.T) {
	t.Setenv("DATABASE_URL", "")
	for ci, want := range map[string]string{"": "skip", "true": "fatal"} {
		t.Setenv("CI", ci)
		got := &recorder{TB: t}
		func() {
			defer func() { _ = recover() }()
			testenv.DatabaseURL(got)
		}()
		require.Equal(t, want, got.outcome)
		require.Contains(t, got.text, "make test")
	}
}

func TestName_IsUniqueAndSuitsQueues(t *testing.T) {
	t.Run("with spaces/and ünïcode "+strings.Repeat("x", 100), func(t *testing.T) {
		a, b := testenv.Name(t), testenv.TaskQueue(t)
		require.NotEqual(t, a, b)
		require.Regexp(t, `^[A-Za-z0-9_-]{20,60}$`, a)
	})
}

func TestEventually_ReportsTheLastError(t *testing.T) {
	tries := 0
	testenv.Eventually(t, time.Second, func() error {
		if tries++; tries < 3 {
			return errors.New("not yet")
		}
		return nil
	})
	require.Equal(t, 3, tries)

	got := &recorder{TB: t}
	func() {
		defer func() { _ = recover() }()
		testenv.Eventually(got, 0, func() error { return errors.New("still 3 pending") })
	}()
	require.Contains(t, got.text, "still 3 pending")
}

// recorder stands in for a test whose end is looked at.
type recorder struct {
	testing.TB
	outcome, text string
}

func (r *recorder) Fatalf(format string, args ...any) { r.end("fatal", format, args) }
func (r *recorder) Skipf(format string, args ...any)  { r.end("skip", format, args) }
func (r *recorder) Helper()                           {}

func (r *recorder) end(outcome, format string, args []any) {
	r.outcome, r.text = outcome, fmt.Sprintf(format, args...)
	panic(outcome)
}
