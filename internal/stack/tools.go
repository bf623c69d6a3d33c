package stack

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

var ourModule = regexp.MustCompile(`(?m)^module github\.com/temporal-outbox/relay$`)

// toolsDir is where built and downloaded tools are kept between runs.
func toolsDir(getenv func(string) string) string {
	if dir := getenv("OUTBOX_TOOLS"); dir != "" {
		if abs, err := filepath.Abs(dir); err == nil {
			return abs
		}
		return dir
	}
	if wd, err := os.Getwd(); err == nil {
		for dir := wd; ; dir = filepath.Dir(dir) {
			if mod, err := os.ReadFile(filepath.Join(dir, "go.mod")); err == nil && ourModule.Match(mod) {
				return filepath.Join(dir, ".tools")
			}
			if dir == filepath.Dir(dir) {
				break
			}
		}
	}
	if cache, err := os.UserCacheDir(); err == nil {
		return filepath.Join(cache, "outbox-relay")
	}
	return filepath.Join(os.TempDir(), "outbox-relay-tools")
}

// install makes path by having build fill an empty directory with it, under a
// lock that other processes respect. No process ever sees half of it: it is
// moved into place when it is complete. It does nothing where path exists.
func install(ctx context.Context, step *step, path, what string, build func(dir string) error) error {
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // tools are no secret
		return err
	}
	unlock, err := lockFile(ctx, step, path+".lock")
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := os.Stat(path); err == nil {
		return nil // another process was quicker
	}
	step.slow(what)
	dir, err := os.MkdirTemp(filepath.Dir(path), ".building-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // tools are no secret
		return err
	}
	if err := build(dir); err != nil {
		return err
	}
	from := filepath.Join(dir, filepath.Base(path))
	if _, err := os.Stat(from); err != nil {
		from = dir // the directory is the tool
	}
	if err := os.Rename(from, path); err != nil {
		return fmt.Errorf("move the built files into place: %w", err)
	}
	return nil
}

// lockFile waits for an exclusive lock that ends with the process, however it
// ends.
func lockFile(ctx context.Context, step *step, path string) (unlock func(), err error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { _ = file.Close() }, nil
		}
		step.slow("another process is installing it, waiting")
		select {
		case <-ctx.Done():
			_ = file.Close()
			return nil, context.Cause(ctx)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// aptInstall installs Debian packages, which needs root. It is not interrupted,
// and outlives this process if necessary: half an installation breaks the next one, too.
func aptInstall(step *step, log string, packages ...string) error {
	lock := "-oDPkg::Lock::Timeout=300"
	step.slow("installing the Debian package, once")
	out, err := os.Create(log)
	if err != nil {
		return err
	}
	defer out.Close()
	for _, args := range [][]string{
		{lock, "update"},
		append([]string{lock, "install", "-y", "--no-install-recommends"}, packages...),
	} {
		cmd := exec.Command("apt-get", args...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		cmd.Stdout, cmd.Stderr = out, out
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // out of Ctrl-C's way
		if err := cmd.Run(); err != nil {
			return withLog(fmt.Errorf("run apt-get %v: %w", args, err), log)
		}
	}
	return nil
}

func debianRoot() bool {
	_, err := exec.LookPath("apt-get")
	return err == nil && os.Geteuid() == 0
}
