package stack

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// tempDir is a stack's directory for data and logs. Its owner holds a lock on a
// file in it, so that a later stack can tell the leftovers of a killed one from
// a directory in use.
type tempDir struct {
	path string
	lock *os.File

	mu    sync.Mutex
	procs []*process
	close []func()
}

const fresh = "new-"

func newTempDir() (*tempDir, error) {
	prefix := fmt.Sprintf("outbox-stack-%d-", os.Getuid())
	sweep(prefix)
	// Locked under a name that no sweep looks at, then renamed into sight.
	path, err := os.MkdirTemp("", fresh+prefix)
	if err != nil {
		return nil, err
	}
	lock, err := os.Create(filepath.Join(path, "owner"))
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	final := filepath.Join(filepath.Dir(path), strings.TrimPrefix(filepath.Base(path), fresh))
	if err := os.Rename(path, final); err != nil {
		return nil, err
	}
	// PostgreSQL may run as another user, who has to get through to its data.
	if err := os.Chmod(final, 0o711); err != nil { //nolint:gosec // see above
		return nil, err
	}
	return &tempDir{path: final, lock: lock}, nil
}

// sweep removes what killed stacks of this user left. It is best effort: the
// directory is temporary anyway.
func sweep(prefix string) {
	left, _ := filepath.Glob(filepath.Join(os.TempDir(), prefix+"*"))
	for _, path := range left {
		lock, err := os.Open(filepath.Join(path, "owner"))
		if err != nil {
			continue
		}
		if unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			_ = os.RemoveAll(path)
		}
		_ = lock.Close()
	}
}

func (d *tempDir) file(name string) string { return filepath.Join(d.path, name) }

// own has Stop end p, even if the part of p has ended.
func (d *tempDir) own(p *process) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.procs = append(d.procs, p)
}

// closeLater has Stop call f, after the processes have ended.
func (d *tempDir) closeLater(f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.close = append(d.close, f)
}

func (d *tempDir) processes() []*process {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.procs
}

func (d *tempDir) remove() {
	for _, f := range d.close {
		f()
	}
	_ = os.RemoveAll(d.path)
	_ = d.lock.Close()
}
