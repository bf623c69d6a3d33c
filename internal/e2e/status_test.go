package e2e

import (
	"bufio"
	"encoding/json"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestStatus_ThatIsWatchedShowsChangesAndReturnsAfterAnOutage(t *testing.T) {
	t.Parallel()
	o := newOutbox(t, "topics:\n  orders: {sqs: q}\n")
	line := newProxy(t, hostOf(t, o.url))
	cmd := exec.CommandContext(t.Context(), filepath.Join(o.programs, "starter"), "status", "--watch", "--every", "100ms", "--json")
	cmd.Env = append(append([]string{}, o.env...), "DATABASE_URL="+line.inFrontOf(t, o.url))
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	errs, err := cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	lines := bufio.NewScanner(out)
	until := func(pending int) {
		t.Helper()
		for lines.Scan() {
			var seen struct{ Topics []struct{ Pending int } }
			require.NoError(t, json.Unmarshal(lines.Bytes(), &seen), lines.Text())
			if len(seen.Topics) == 1 && seen.Topics[0].Pending == pending {
				return
			}
		}
		t.Fatal("it ended")
	}
	o.write("orders", "e", 3, 1)
	until(3)
	line.set(refused)
	said, err := bufio.NewReader(errs).ReadString('\n')
	require.NoError(t, err)
	require.Contains(t, said, "starter: ")
	o.write("orders", "e", 2, 1)
	line.set(whole)
	until(5)
	require.NoError(t, cmd.Process.Signal(syscall.SIGINT))
	for lines.Scan() { // to its end
	}
	require.NoError(t, cmd.Wait(), "interrupting it is how it ends")
}
