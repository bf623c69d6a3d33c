package main

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// govulncheck is the pinned program that `make vuln` installs.
func govulncheck(t *testing.T) string {
	t.Helper()
	tools := os.Getenv("OUTBOX_TOOLS")
	if tools == "" {
		tools = filepath.Join("..", "..", "..", ".tools")
	}
	program, err := filepath.Abs(filepath.Join(tools, "bin", "govulncheck"))
	require.NoError(t, err)
	if _, err := os.Stat(program); err == nil {
		return program
	}
	if program, err := exec.LookPath("govulncheck"); err == nil {
		return program
	}
	const remedy = "govulncheck is not installed: run `make tools`"
	if os.Getenv("CI") == "true" {
		t.Fatal(remedy)
	}
	t.Skip(remedy)
	return ""
}

func file(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("testdata", name))
	require.NoError(t, err)
	return "file://" + path
}

func TestVuln_FailsOnAVulnerabilityThatIsCalled(t *testing.T) {
	var out bytes.Buffer
	c := check{program: govulncheck(t), packages: []string{"./..."}, dir: "testdata/module", out: &out, err: &out}
	for _, named := range []bool{true, false} {
		out.Reset()
		c.named, c.usual = file(t, "found"), "unused"
		if !named {
			// The usual database, reached over the network.
			server := httptest.NewServer(gzipped(t, "testdata/found"))
			defer server.Close()
			c.named, c.usual = "", server.URL
		}
		require.Error(t, c.run(t.Context()), out.String())
		require.Contains(t, out.String(), "GO-2026-0001")
		require.Contains(t, out.String(), "strings.ToUpper")
	}
}

func TestVuln_NamesTheDatabaseIfItFindsNothing(t *testing.T) {
	var out bytes.Buffer
	db := file(t, "clean")
	c := check{program: govulncheck(t), packages: []string{"./..."}, dir: "testdata/module", named: db, out: &out, err: &out}
	require.NoError(t, c.run(t.Context()), out.String())
	require.Contains(t, out.String(), "checked against "+db)
}

func TestVuln_WarnsOnOneLineIfTheUsualDatabaseIsUnreachable(t *testing.T) {
	forbidden := httptest.NewServer(http.NotFoundHandler())
	defer forbidden.Close()
	for _, usual := range []string{"http://127.0.0.1:1", forbidden.URL} {
		var out bytes.Buffer
		c := check{program: "false", usual: usual, out: &out, err: &out}
		require.NoError(t, c.run(t.Context()))
		require.Contains(t, out.String(), "VULNERABILITIES WERE NOT CHECKED")
		require.Contains(t, out.String(), "GOVULNDB")
		require.Equal(t, 1, strings.Count(out.String(), "\n"))
	}
}

func TestVuln_FailsIfTheChosenDatabaseIsUnreachable(t *testing.T) {
	var out bytes.Buffer
	c := check{program: govulncheck(t), packages: []string{"./..."}, dir: "testdata/module", named: "http://127.0.0.1:1", out: &out, err: &out}
	require.Error(t, c.run(t.Context()))
}
