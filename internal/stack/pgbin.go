package stack

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// oldestPostgres is the oldest major version that the schema supports.
const oldestPostgres = 14

// postgresBin finds a directory with PostgreSQL's server programs: $OUTBOX_PG_BIN,
// else the one of PATH, else the newest of the usual places. On Debian as root it installs
// the package if there is none.
func (s *Stack) postgresBin(step *step) (dir, version string, err error) {
	if dir := s.opt.Getenv("OUTBOX_PG_BIN"); dir != "" {
		version, err := postgresVersion(dir)
		if err != nil {
			return "", "", fmt.Errorf("OUTBOX_PG_BIN=%s: %w", dir, err)
		}
		return dir, version, nil
	}
	dir, version, err = findPostgres()
	if err == nil || !debianRoot() {
		return dir, version, err
	}
	if err := aptInstall(step, s.dir.file("apt.log"), "postgresql"); err != nil {
		return "", "", fmt.Errorf("install PostgreSQL: %w", err)
	}
	step.fast()
	return findPostgres()
}

func findPostgres() (dir, version string, err error) {
	var dirs []string
	if initdb, err := exec.LookPath("initdb"); err == nil {
		if initdb, err = filepath.EvalSymlinks(initdb); err == nil {
			dirs = append(dirs, filepath.Dir(initdb))
		}
	}
	if out, err := exec.Command("pg_config", "--bindir").Output(); err == nil {
		dirs = append(dirs, strings.TrimSpace(string(out)))
	}
	// pg_config may belong to the client library alone, so go on looking.
	dirs = append(dirs, newest("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin",
		"/opt/homebrew/opt/postgresql@*/bin", "/usr/local/opt/postgresql@*/bin",
		"/Applications/Postgres.app/Contents/Versions/*/bin")...)
	reason := errors.New("no PostgreSQL server programs (initdb, postgres) were found")
	for _, dir := range dirs {
		version, err := postgresVersion(dir)
		if err == nil {
			return dir, version, nil
		}
		if !errors.Is(err, os.ErrNotExist) {
			reason = fmt.Errorf("%s: %w", dir, err)
		}
	}
	return "", "", remedy(reason, "install the server (Debian: apt-get install postgresql, macOS: brew install "+
		"postgresql@17), or set OUTBOX_PG_BIN to the directory of its programs, or DATABASE_URL to a database that runs")
}

var number = regexp.MustCompile(`\d+`)

// newest lists the directories that match, the highest version first.
func newest(patterns ...string) []string {
	var dirs []string
	for _, pattern := range patterns {
		found, _ := filepath.Glob(pattern)
		dirs = append(dirs, found...)
	}
	major := func(dir string) int {
		n, _ := strconv.Atoi(number.FindString(dir))
		return n
	}
	slices.SortStableFunc(dirs, func(a, b string) int { return major(b) - major(a) })
	return dirs
}

// postgresVersion is the version of the server in dir, if dir has all that is
// needed to run one that the schema supports.
func postgresVersion(dir string) (string, error) {
	if _, err := os.Stat(filepath.Join(dir, "initdb")); err != nil {
		return "", err
	}
	program := filepath.Join(dir, "postgres")
	if _, err := os.Stat(program); err != nil {
		return "", err
	}
	out, err := exec.Command(program, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("ask for the version: %w", err)
	}
	// postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)
	fields := strings.Fields(string(out))
	if len(fields) < 3 {
		return "", fmt.Errorf("unexpected version %q", out)
	}
	major, _ := strconv.Atoi(number.FindString(fields[2]))
	if major < oldestPostgres {
		return "", fmt.Errorf("PostgreSQL %s is too old, the outbox needs %d or later", fields[2], oldestPostgres)
	}
	return fields[2], nil
}
