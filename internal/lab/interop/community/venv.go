package community

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

//go:embed constraints.txt
var constraints []byte

// pythonVersion is the only one that 4.14.0 runs on: its metadata allows older ones, but
// its source uses syntax that 3.12 rejects. No later version has been tried.
const pythonVersion = "3.13"

var errNoPython = errors.New("python " + pythonVersion + " not found: " +
	"put python" + pythonVersion + " on PATH, install it with pyenv, or name it in INTEROP_PYTHON")

// ensureVenv returns the interpreter of a virtual environment that holds exactly
// the pinned packages, and makes or remakes the environment if it does not.
func ensureVenv(ctx context.Context, dir string, progress io.Writer) (string, error) {
	if dir == "" {
		root, err := moduleRoot()
		if err != nil {
			return "", err
		}
		dir = filepath.Join(root, ".tools", "localstack-venv")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	unlock, err := lock(dir + ".lock")
	if err != nil {
		return "", err
	}
	defer unlock()

	// The marker is written last: an environment without it is half made.
	marker, want := filepath.Join(dir, "complete"), stamp()
	python := filepath.Join(dir, "bin", "python")
	if have, err := os.ReadFile(marker); err == nil && bytes.Equal(have, want) {
		return python, nil
	}
	began := time.Now()
	base, err := findPython(ctx)
	if err != nil {
		return "", err
	}
	_, _ = fmt.Fprintf(progress, "interop: installing localstack-core %s into %s (about a minute, 500 MB)\n", Version, dir)
	if err := install(ctx, base, dir); err != nil {
		return "", err
	}
	if err := os.WriteFile(marker, want, 0o644); err != nil { //nolint:gosec // no secret
		return "", err
	}
	_, _ = fmt.Fprintf(progress, "interop: installed in %s\n", time.Since(began).Round(time.Second))
	return python, nil
}

func install(ctx context.Context, base, dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := run(ctx, base, "-m", "venv", dir); err != nil {
		return fmt.Errorf("make a virtual environment (on Debian it needs python3-venv): %w", err)
	}
	file := filepath.Join(dir, "constraints.txt")
	if err := os.WriteFile(file, constraints, 0o644); err != nil { //nolint:gosec // no secret
		return err
	}
	err := run(ctx, filepath.Join(dir, "bin", "python"), "-m", "pip", "install", "--quiet",
		"--disable-pip-version-check", "--no-input", "--constraint", file,
		"localstack-core[runtime]=="+Version)
	if err != nil {
		return fmt.Errorf("install packages: %w", err)
	}
	// LocalStack's image is built with an index of AWS's services. Without one,
	// every start builds it anew, during the first request: 5 s, 10 s when busy.
	index := exec.CommandContext(ctx, filepath.Join(dir, "bin", "python"), "-m", "localstack.aws.spec")
	index.Dir, index.Env = dir, hostMode(dir, imageDir(dir))
	if err := os.MkdirAll(staticLibs(imageDir(dir)), 0o755); err != nil { //nolint:gosec // no secret
		return err
	}
	if out, err := index.CombinedOutput(); err != nil {
		return fmt.Errorf("index aws services: %w:\n%s", err, bytes.TrimSpace(out))
	}
	return nil
}

// imageDir holds what LocalStack's Docker image would have beside the packages.
func imageDir(venv string) string { return filepath.Join(venv, "image") }

func staticLibs(root string) string { return filepath.Join(root, "usr", "lib", "localstack") }

// hostMode is the environment of everything that runs: bare, so that neither
// settings nor proxies of the shell matter, with all of LocalStack's files under
// root. (In a container it would take itself for its image and write to /var/lib.)
func hostMode(home, root string) []string {
	return []string{
		"PATH=/usr/bin:/bin",
		"HOME=" + home,
		"XDG_CACHE_HOME=" + filepath.Join(home, "cache"),
		"FILESYSTEM_ROOT=" + root,
		"OVERRIDE_IN_DOCKER=0",
	}
}

func stamp() []byte {
	sum := sha256.Sum256(append([]byte(Version+"\n"+pythonVersion+"\n"), constraints...))
	return []byte(hex.EncodeToString(sum[:]))
}

// findPython looks where an interpreter of that version usually is. Each
// candidate is asked, since a pyenv shim answers for versions that it lacks.
func findPython(ctx context.Context) (string, error) {
	if named := os.Getenv("INTEROP_PYTHON"); named != "" {
		return named, nil
	}
	candidates := []string{"python" + pythonVersion, "python3", "python"}
	for _, root := range []string{os.Getenv("PYENV_ROOT"), filepath.Join(os.Getenv("HOME"), ".pyenv"), "/opt/pyenv"} {
		found, _ := filepath.Glob(filepath.Join(root, "versions", pythonVersion+"*", "bin", "python3"))
		slices.Sort(found)
		candidates = append(candidates, found...)
	}
	for _, candidate := range candidates {
		out, err := exec.CommandContext(ctx, candidate, "-c", //nolint:gosec // candidates are fixed
			"import sys; print('%d.%d' % sys.version_info[:2])").Output()
		if err == nil && strings.TrimSpace(string(out)) == pythonVersion {
			return candidate, nil
		}
	}
	return "", errNoPython
}

// run runs a command and puts its output into the error if it fails.
func run(ctx context.Context, name string, args ...string) error {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w:\n%s", filepath.Base(name), err, bytes.TrimSpace(out))
	}
	return nil
}

// lock keeps two processes from making one environment at once.
func lock(path string) (unlock func(), err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // no secret
		return nil, err
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644) //nolint:gosec // no secret
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX); err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return func() { _ = file.Close() }, nil
}
