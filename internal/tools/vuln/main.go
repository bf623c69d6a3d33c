// Command vuln runs govulncheck so that its result can be trusted on every
// network. Its database lives on the internet: where that cannot be reached, a
// plain run fails for a reason that has nothing to do with the code, and a run
// that swallows the failure looks like a clean one. This one says loudly that
// nothing was checked, and how to check.
//
//	vuln [-govulncheck PROGRAM] PACKAGES...
//
// GOVULNDB names another database: an https:// mirror, or a file:// directory
// laid out like the original. It is then an error if that cannot be read, so CI
// that must not go unchecked sets GOVULNDB=https://vuln.go.dev.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"time"
)

const database = "https://vuln.go.dev"

func main() {
	program := flag.String("govulncheck", "govulncheck", "the program to run")
	flag.Parse()
	c := check{
		program: *program, packages: flag.Args(), named: os.Getenv("GOVULNDB"), usual: database,
		out: os.Stdout, err: os.Stderr,
	}
	if err := c.run(context.Background()); err != nil {
		fmt.Fprintf(os.Stderr, "vuln: %v\n", err)
		os.Exit(1)
	}
}

type check struct {
	program      string
	packages     []string
	dir          string // where the packages are, default here
	named, usual string // databases: the one asked for, and the one otherwise
	out, err     io.Writer
}

// run returns an error if there are findings, or if a database that GOVULNDB names cannot
// be read.
func (c check) run(ctx context.Context) error {
	db := c.named
	if db == "" {
		db = c.usual
		if err := reachable(ctx, db); err != nil {
			fmt.Fprintf(c.err, "WARNING: VULNERABILITIES WERE NOT CHECKED: %s cannot be read (%v); to check, set "+
				"GOVULNDB to a mirror (https://…) or to a copy (file:///…)\n", db, err)
			return nil
		}
	}
	cmd := exec.CommandContext(ctx, c.program, append([]string{"-db", db}, c.packages...)...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = c.dir, c.out, c.err
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", c.program, err)
	}
	fmt.Fprintf(c.err, "vulnerabilities checked against %s: none that this code calls\n", db)
	return nil
}

// reachable asks for the smallest file of a database.
func reachable(ctx context.Context, db string) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(db, "/")+"/index/db.json.gz", nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return errors.Unwrap(err) // the URL is said already
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	return nil
}
