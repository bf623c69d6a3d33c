package stack

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestInstall_AtOnceBuildsOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bin", "tool")
	var built atomic.Int32
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			err := install(t.Context(), newReporter(io.Discard).start(AWS), path, "building", func(dir string) error {
				built.Add(1)
				time.Sleep(300 * time.Millisecond)
				return os.WriteFile(filepath.Join(dir, "tool"), []byte("x"), 0o755)
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	require.EqualValues(t, 1, built.Load())
	require.FileExists(t, path)
}

func TestInstall_ThatFailsLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	err := install(t.Context(), newReporter(io.Discard).start(AWS), filepath.Join(dir, "tool"), "building", func(dir string) error {
		_ = os.WriteFile(filepath.Join(dir, "tool"), []byte("half"), 0o755)
		return fmt.Errorf("no network")
	})
	require.ErrorContains(t, err, "no network")
	left, err := filepath.Glob(filepath.Join(dir, "tool"))
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestReporter_RepeatsASlowStepOnAPlainOutput(t *testing.T) {
	out := &lockedBuffer{}
	r := newReporter(out)
	r.every = 20 * time.Millisecond
	step := r.start(Temporal)
	step.slow("building")
	step.slow("building")
	require.Eventually(t, func() bool { return strings.Count(out.String(), "temporal: building (") >= 2 }, 5*time.Second, time.Millisecond)
	step.done("Temporal 1")
	text := out.String()
	require.Equal(t, 1, strings.Count(text, "temporal: building\n"))
	require.Contains(t, text, "temporal: Temporal 1 (")
	time.Sleep(50 * time.Millisecond)
	require.Equal(t, text, out.String(), "it goes on after the step")
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
