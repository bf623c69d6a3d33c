package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// untilPublished waits until a worker has published everything.
const untilPublished = `for i in $(seq 600); do
  [ "$(psql "$DATABASE_URL" -Atc 'SELECT count(*) FROM outbox.pending')" = 0 ] && break
  sleep 0.1
done
`

// A reader copies its commands one after the other, so they are run so, as they stand
// in the document, from the top of the repository.
func TestGuide_WorksAsItStands(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "guide.md"))
	require.NoError(t, err)
	script := "set -eu\n"
	for _, block := range regexp.MustCompile("(?s)<!-- run -->\n```sh\n(.*?)```").FindAllSubmatch(text, -1) {
		script += string(block[1])
	}
	o := newOutbox(t, "topics: {}\n")
	o.exec(`DROP SCHEMA outbox CASCADE`)
	o.unschedule(o.queue)
	o.unschedule(o.queue + "-maintenance")
	newQueue(t, "guide-orders.fifo").remove() // what an earlier run left

	config := filepath.Join(t.TempDir(), "outbox.yaml")
	script = strings.ReplaceAll(script, "/tmp/outbox.yaml", config)
	// On a busy machine the worker may need longer than a reader.
	require.Contains(t, script, "url=$(sqs")
	script = strings.Replace(script, "kill $!", untilPublished+"kill $!", 1)
	script = strings.Replace(script, "url=$(sqs", untilPublished+"url=$(sqs", 1)
	sh := exec.CommandContext(t.Context(), "sh", "-c", script)
	sh.Dir = filepath.Join("..", "..")
	sh.Env = append(append([]string{}, o.env...), "PATH="+filepath.Dir(psqlPath(t))+":"+os.Getenv("PATH"))
	var out bytes.Buffer
	sh.Stdout, sh.Stderr = &out, &out
	sh.WaitDelay = 2 * time.Second // the worker, in the background, has them open
	sh.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	require.NoError(t, sh.Start())
	t.Cleanup(func() { _ = syscall.Kill(-sh.Process.Pid, syscall.SIGKILL) })
	err = sh.Wait()
	require.True(t, sh.ProcessState.Success(), "%v:\n%s", err, out.String())

	said := out.String()
	// "go run" does not pass a signal on, and the worker went on.
	require.Contains(t, said, "msg=stopped", "the guide's last command stops the worker")
	require.Contains(t, said, "placed order 4711")
	require.Regexp(t, `orders\s+\S\s+3\b`, said, "three are pending")
	require.Contains(t, said, `{\"order\":\"4711\"}`, "a message was received")
	require.Contains(t, said, "OrderPlaced")
	require.Regexp(t, `done: [1-3] events of orders`, said, "as many as were published by then")
}

func TestGuide_ShowsTheProgramThatIsCompiled(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "guide.md"))
	require.NoError(t, err)
	program, err := os.ReadFile(filepath.Join("..", "..", "examples", "guide", "main.go"))
	require.NoError(t, err)
	blocks := regexp.MustCompile("(?s)```go\n(.*?)```").FindAllSubmatch(text, -1)
	require.NotEmpty(t, blocks)
	for _, block := range blocks {
		require.Contains(t, string(program), string(block[1]), "a block of the guide is not in examples/guide/main.go")
	}
}
