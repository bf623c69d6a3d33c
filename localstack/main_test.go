package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestMain lets the test binary be the command, so that what is tested is a
// process with its signals and children, and nothing has to be built for it.
func TestMain(m *testing.M) {
	if os.Getenv("OUTBOX_TEST_COMMAND") != "" {
		_ = os.Unsetenv("OUTBOX_TEST_COMMAND")
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// started names the parts that tests start; Temporal would only be slower.
const started = "--only=postgres,aws"

// localstack is the command in an environment that names no part, with a
// directory of its own for temporary files.
func localstack(t *testing.T, args ...string) (cmd *exec.Cmd, tmp string) {
	t.Helper()
	tmp = t.TempDir()
	// PostgreSQL runs as another user if we are root.
	require.NoError(t, os.Chmod(filepath.Dir(tmp), 0o755))
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	cmd = exec.CommandContext(ctx, os.Args[0], args...)
	cmd.Env = append(os.Environ(), "OUTBOX_TEST_COMMAND=1", "TMPDIR="+tmp, "DATABASE_URL=", "TEMPORAL_ADDRESS=",
		"TEMPORAL_UI_URL=", "AWS_ENDPOINT_URL=")
	cmd.WaitDelay = 5 * time.Second
	return cmd, tmp
}

// output runs the command and returns what it said and its status.
func output(cmd *exec.Cmd) (stdout, stderr string, status int) {
	var out, err bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &err
	_ = cmd.Run()
	return out.String(), err.String(), cmd.ProcessState.ExitCode()
}

// descendants are the processes below pid, with their command lines.
func descendants(t *testing.T, pid int) map[int]string {
	t.Helper()
	children := map[int][]int{}
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	require.NoError(t, err)
	if len(stats) == 0 {
		t.Skip("needs /proc to see processes")
	}
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended meanwhile
		}
		// pid (name) state ppid …, where the name may hold anything.
		fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
		child, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		parent, _ := strconv.Atoi(fields[1])
		children[parent] = append(children[parent], child)
	}
	found := map[int]string{}
	var walk func(int)
	walk = func(pid int) {
		for _, child := range children[pid] {
			line, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(child), "cmdline"))
			found[child] = string(bytes.ReplaceAll(line, []byte{0}, []byte{' '}))
			walk(child)
		}
	}
	walk(pid)
	return found
}

// alive is false for a process that is gone, or only waits to be collected.
func alive(pid int) bool {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	return err == nil && !strings.HasPrefix(string(text[bytes.LastIndexByte(text, ')')+1:]), " Z") &&
		syscall.Kill(pid, 0) == nil
}

// directories are what stacks have left below tmp.
func directories(t *testing.T, tmp string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(tmp, "outbox-stack-*"))
	require.NoError(t, err)
	return found
}

func TestVersion_SaysTheRevisionOfTheBuild(t *testing.T) {
	var out bytes.Buffer
	cmd := root()
	cmd.SetOut(&out)
	cmd.SetArgs([]string{"--version"})
	require.NoError(t, cmd.Execute())
	require.Regexp(t, `^localstack version \S+ \(.*go1\.`, out.String())
}
