package e2e

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/testenv"
)

// running is a command of the starter that goes on beside the test.
type running struct {
	t    *testing.T
	cmd  *exec.Cmd
	out  said // of a terminal: all that it shows
	err  said
	tty  *os.File
	done chan struct{}
}

// said is what was printed so far.
type said struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *said) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// begin starts a command as a script does; env is added to the outbox's.
func (o *outbox) begin(env []string, args ...string) *running {
	o.t.Helper()
	r := o.prepare(env, args...)
	r.cmd.Stdout, r.cmd.Stderr = &r.out, &r.err
	require.NoError(o.t, r.cmd.Start())
	go func() {
		_ = r.cmd.Wait()
		close(r.done)
	}()
	return r
}

// onTerminal starts a command as somebody at a terminal does.
func (o *outbox) onTerminal(env []string, args ...string) *running {
	o.t.Helper()
	r := o.prepare(env, args...)
	var err error
	r.tty, err = pty.StartWithSize(r.cmd, &pty.Winsize{Rows: 50, Cols: 200})
	require.NoError(o.t, err)
	o.t.Cleanup(func() { _ = r.tty.Close() })
	go func() {
		_, _ = io.Copy(&r.out, r.tty) // until the other end is closed
		_ = r.cmd.Wait()
		close(r.done)
	}()
	return r
}

func (o *outbox) prepare(env []string, args ...string) *running {
	r := &running{t: o.t, cmd: exec.Command(filepath.Join(o.programs, "starter"), args...), done: make(chan struct{})}
	r.cmd.Env = append(append([]string{}, o.env...), env...)
	o.t.Cleanup(func() {
		if r.cmd.Process != nil {
			_ = r.cmd.Process.Kill()
			<-r.done
		}
		if o.t.Failed() {
			o.t.Logf("%v:\n%s%s", args, r.out.String(), r.err.String())
		}
	})
	return r
}

// answer types a line.
func (r *running) answer(text string) {
	r.t.Helper()
	_, err := r.tty.WriteString(text + "\n")
	require.NoError(r.t, err)
}

// says waits until it has printed something.
func (r *running) says(text string) {
	r.t.Helper()
	testenv.Eventually(r.t, 40*time.Second, func() error {
		if !strings.Contains(r.out.String()+r.err.String(), text) {
			return fmt.Errorf("it does not say %q", text)
		}
		return nil
	})
}

// ends waits for its end, and returns what it printed.
func (r *running) ends() ran {
	r.t.Helper()
	select {
	case <-r.done:
	case <-time.After(90 * time.Second):
		r.t.Fatal("it does not end")
	}
	return ran{r.out.String(), r.err.String(), r.cmd.ProcessState.ExitCode()}
}

// dead makes n dead letters of the topic orders, as a relay does.
func (o *outbox) dead(n, keys int) {
	o.t.Helper()
	o.write("orders", "e", n, keys)
	o.exec(`INSERT INTO outbox.lane (topic, lane) SELECT DISTINCT topic, lane FROM outbox.pending ON CONFLICT DO NOTHING`)
	o.exec(`WITH gone AS (DELETE FROM outbox.pending RETURNING topic, lane, id, created_at, bytes)
	        INSERT INTO outbox.dead_letter (topic, lane, id, created_at, bytes, code, message, attempts, workflow_id, key)
	        SELECT g.topic, g.lane, g.id, g.created_at, g.bytes, 'Poison', 'x', 1, 'outbox-recovery/orders', e.key
	        FROM gone g JOIN outbox.event e USING (id, created_at)`)
}

// discarding are the arguments of a command that takes as long as its rate says.
func discarding(rate int, more ...string) []string {
	return append([]string{"dead", "discard", "orders", "--all", "--rate", fmt.Sprint(rate), "--by", "ada", "--reason", "test data"}, more...)
}
