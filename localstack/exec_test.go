package main

import (
	"bufio"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/stack"
	"github.com/temporal-outbox/relay/internal/testenv"
)

func TestExec_EndsWithTheStatusOfItsCommand(t *testing.T) {
	for name, c := range map[string]struct {
		args   []string
		status int
	}{
		"success":      {[]string{"true"}, 0},
		"failure":      {[]string{"sh", "-c", "exit 3"}, 3},
		"signal":       {[]string{"sh", "-c", "kill -KILL $$"}, 128 + 9},
		"no such":      {[]string{"outbox-no-such-command"}, 127},
		"flags of CMD": {[]string{"sh", "-c", "exit $#", "sh", "--only", "x", "-h"}, 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cmd, tmp := localstack(t, append([]string{"exec", "--only=aws", "--"}, c.args...)...)
			_, stderr, status := output(cmd)
			require.Equal(t, c.status, status, stderr)
			require.Empty(t, directories(t, tmp))
		})
	}
}

func TestExec_LeavesStandardOutputToItsCommand(t *testing.T) {
	cmd, _ := localstack(t, "exec", "--only=aws", "--", "cat")
	cmd.Stdin = strings.NewReader("in and out")
	stdout, stderr, status := output(cmd)
	require.Zero(t, status, stderr)
	require.Equal(t, "in and out", stdout)
}

func TestExec_TwoRunSideBySide(t *testing.T) {
	const script = `echo "$DATABASE_URL $AWS_ENDPOINT_URL"; sleep 1`
	var wg sync.WaitGroup
	got := make([]string, 2)
	for i := range got {
		cmd, _ := localstack(t, "exec", started, "--", "sh", "-c", script)
		wg.Go(func() {
			stdout, stderr, status := output(cmd)
			if status != 0 {
				t.Error(stderr)
			}
			got[i] = stdout
		})
	}
	wg.Wait()
	a, b := strings.Fields(got[0]), strings.Fields(got[1])
	require.Len(t, a, 2)
	require.Len(t, b, 2)
	require.NotEqual(t, a[0], b[0])
	require.NotEqual(t, a[1], b[1])
}

// running starts `exec` and returns once CMD runs in it.
func running(t *testing.T) (kill func(syscall.Signal) int, pid int, tmp string, stderr func() string) {
	t.Helper()
	cmd, tmp := localstack(t, "exec", started, "--", "sh", "-c", "echo ready; sleep 30 & wait")
	log, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
	require.NoError(t, err)
	cmd.Stderr = log
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	stderr = func() string {
		text, _ := os.ReadFile(log.Name())
		return string(text)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err, stderr())
	require.Equal(t, "ready\n", line)
	return func(sig syscall.Signal) int {
		if sig != 0 {
			require.NoError(t, cmd.Process.Signal(sig))
		}
		_ = cmd.Wait()
		_ = out.(io.Closer).Close()
		return cmd.ProcessState.ExitCode()
	}, cmd.Process.Pid, tmp, stderr
}

func TestExec_LeavesNoProcessAndNoData(t *testing.T) {
	for name, c := range map[string]struct {
		sig    syscall.Signal
		status int
		clean  bool
	}{
		"SIGINT":  {syscall.SIGINT, 128 + 2, true},
		"SIGTERM": {syscall.SIGTERM, 128 + 15, true},
		"SIGKILL": {syscall.SIGKILL, -1, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			end, pid, tmp, stderr := running(t)
			below := descendants(t, pid)
			require.GreaterOrEqual(t, len(below), 6, "PostgreSQL with its backends, the emulator, CMD: %v", below)

			require.Equal(t, c.status, end(c.sig), stderr())

			testenv.Eventually(t, 5*time.Second, func() error {
				for pid, line := range below {
					// sleep is CMD's own child, and CMD's own business.
					if alive(pid) && !strings.HasPrefix(line, "sleep") {
						return errStillThere(line)
					}
				}
				return nil
			})
			if c.clean {
				require.Empty(t, directories(t, tmp))
				return
			}
			// A killed command cannot remove its data; the next one does.
			require.Len(t, directories(t, tmp), 1)
			next, _ := localstack(t, "exec", "--only=aws", "--", "true")
			next.Env = append(next.Env, "TMPDIR="+tmp)
			_, text, status := output(next)
			require.Zero(t, status, text)
			require.Empty(t, directories(t, tmp))
		})
	}
}

type errStillThere string

func (e errStillThere) Error() string { return "still there: " + string(e) }

func TestExec_EndsWhenAPartEnds(t *testing.T) {
	end, pid, tmp, stderr := running(t)
	for child, line := range descendants(t, pid) {
		if strings.Contains(line, "listen_addresses") {
			require.NoError(t, syscall.Kill(child, syscall.SIGKILL))
		}
	}
	require.Equal(t, 1, end(0))
	require.Contains(t, stderr(), "postgres ended by itself")
	require.Empty(t, directories(t, tmp))
}

func TestExec_UsesThePartsThatTheEnvironmentNames(t *testing.T) {
	s, err := stack.Start(t.Context(), stack.Options{
		Only: []stack.Part{stack.Postgres, stack.AWS}, Getenv: func(string) string { return "" }, Status: io.Discard,
	})
	require.NoError(t, err)
	defer s.Stop()

	cmd, tmp := localstack(t, "exec", started, "--", "sh", "-c", "echo $DATABASE_URL; echo $AWS_ENDPOINT_URL; ls $TMPDIR/outbox-stack-*")
	cmd.Env = append(cmd.Env, s.Env()...)
	stdout, stderr, status := output(cmd)
	require.Zero(t, status, stderr)
	for _, kv := range s.Env() {
		name, value, _ := strings.Cut(kv, "=")
		if name == "DATABASE_URL" || name == "AWS_ENDPOINT_URL" {
			require.Contains(t, stdout, value+"\n")
		}
	}
	require.NotContains(t, stdout, "postgres.log", "a server was started")
	require.NotContains(t, stdout, "initdb.log", "a server was started")
	require.Empty(t, directories(t, tmp))
}
