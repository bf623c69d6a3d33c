package stack

import (
	"context"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

func nothing(string) string { return "" }

func TestPostgres_OwnerMayDoAllThatTestsNeedAndIsNoSuperuser(t *testing.T) {
	s, err := Start(t.Context(), Options{Only: []Part{Postgres}, Getenv: nothing, Status: io.Discard})
	require.NoError(t, err)
	defer s.Stop()
	url := strings.TrimPrefix(s.Env()[0], "DATABASE_URL=")
	conn, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	for _, sql := range []string{"CREATE DATABASE one", "CREATE DATABASE two TEMPLATE one", "CREATE ROLE producer LOGIN", "CREATE SCHEMA mine"} {
		_, err := conn.Exec(t.Context(), sql)
		require.NoError(t, err, sql)
	}
	_, err = pgx.Connect(t.Context(), strings.Replace(strings.Replace(url, "outbox@", "producer@", 1), "/outbox?", "/two?", 1))
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), "DROP DATABASE two WITH (FORCE)")
	require.NoError(t, err, "somebody else's connection is in the way")

	var super, fsync, commit, connections string
	require.NoError(t, conn.QueryRow(t.Context(), "SELECT current_setting('is_superuser'), current_setting('fsync'), "+
		"current_setting('synchronous_commit'), current_setting('max_connections')").Scan(&super, &fsync, &commit, &connections))
	require.Equal(t, []string{"off", "on", "on", "300"}, []string{super, fsync, commit, connections})
}

func TestStart_TakesAnotherPortIfItsPortIsTaken(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	for _, part := range []Part{Postgres, Temporal} {
		t.Run(string(part), func(t *testing.T) {
			dir, err := newTempDir()
			require.NoError(t, err)
			s := &Stack{
				opt: Options{Only: []Part{part}, Getenv: nothing, Status: io.Discard}.withDefaults(),
				dir: dir, services: map[Part]*service{}, done: make(chan struct{}),
			}
			if part == Temporal && !haveTemporal(s.opt.ToolsDir) {
				t.Skip("would have to build Temporal's dev server: run `go run ./localstack exec --only temporal -- true` once")
			}
			t.Cleanup(s.Stop)
			var asked atomic.Int32
			s.freePort = func() (int, error) {
				if asked.Add(1) == 1 {
					return taken.Addr().(*net.TCPAddr).Port, nil
				}
				return freePort()
			}
			require.NoError(t, s.start(t.Context()))
			require.Greater(t, asked.Load(), int32(1))
		})
	}
}

func haveTemporal(tools string) bool {
	_, built := os.Stat(filepath.Join(tools, "bin", "temporal"))
	_, found := exec.LookPath("temporal")
	return built == nil || found == nil
}

// fakePostgres is a directory with a server that cannot make a data directory.
func fakePostgres(t *testing.T, version string) string {
	t.Helper()
	dir := t.TempDir()
	for name, script := range map[string]string{
		"postgres": "echo 'postgres (PostgreSQL) " + version + "'",
		"initdb":   "echo 'initdb: error: no space left on device' >&2; exit 1",
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script+"\n"), 0o755))
	}
	for d := dir; strings.Contains(d, t.Name()); d = filepath.Dir(d) {
		require.NoError(t, os.Chmod(d, 0o755)) // for another user
	}
	return dir
}

func TestStart_StopsTheOtherPartsIfOneFailsAndSaysWhy(t *testing.T) {
	bin := fakePostgres(t, "17.1")
	tmp := t.TempDir()
	require.NoError(t, os.Chmod(filepath.Dir(tmp), 0o755))
	t.Setenv("TMPDIR", tmp)
	_, err := Start(t.Context(), Options{
		Only: []Part{Postgres, AWS}, Status: io.Discard,
		Getenv: func(name string) string { return map[string]string{"OUTBOX_PG_BIN": bin}[name] },
	})
	require.ErrorContains(t, err, "postgres did not start")
	require.ErrorContains(t, err, "no space left on device")
	left, err := filepath.Glob(filepath.Join(tmp, "*"))
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestStart_RefusesAnUnsupportedPostgreSQL(t *testing.T) {
	bin := fakePostgres(t, "13.9")
	_, err := Start(t.Context(), Options{
		Only: []Part{Postgres}, Status: io.Discard,
		Getenv: func(name string) string { return map[string]string{"OUTBOX_PG_BIN": bin}[name] },
	})
	require.ErrorContains(t, err, "13.9 is too old")
}

func TestStart_SaysTheRemedyIfANamedPartDoesNotAnswer(t *testing.T) {
	for name, value := range map[string]string{
		"DATABASE_URL":     "postgres://nobody@127.0.0.1:1/none?sslmode=disable",
		"TEMPORAL_ADDRESS": "127.0.0.1:1",
		"AWS_ENDPOINT_URL": "http://127.0.0.1:1",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			part := map[string]Part{"DATABASE_URL": Postgres, "TEMPORAL_ADDRESS": Temporal, "AWS_ENDPOINT_URL": AWS}[name]
			_, err := Start(ctx, Options{
				Only: []Part{part}, Status: io.Discard,
				Getenv: func(n string) string { return map[string]string{name: value}[n] },
			})
			require.ErrorContains(t, err, name)
			require.ErrorContains(t, err, "remedy: start it, or unset "+name)
			require.ErrorContains(t, err, "refused")
		})
	}
}

func TestEnviron_HasNoCredentialsAndProfilesOfOtherPlaces(t *testing.T) {
	t.Setenv("AWS_PROFILE", "production")
	t.Setenv("AWS_ENDPOINT_URL_SQS", "https://sqs.example")
	t.Setenv("AWS_ACCESS_KEY_ID", "REAL")
	s, err := Start(t.Context(), Options{Only: []Part{AWS}, Getenv: nothing, Status: io.Discard})
	require.NoError(t, err)
	defer s.Stop()
	cmd := exec.Command("sh", "-c", "echo $AWS_PROFILE$AWS_ENDPOINT_URL_SQS$AWS_ACCESS_KEY_ID")
	cmd.Env = s.Environ()
	out, err := cmd.Output()
	require.NoError(t, err)
	require.Equal(t, "test\n", string(out))
}
