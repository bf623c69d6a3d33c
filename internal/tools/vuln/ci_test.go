package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// handedOver is the database that .ci/run hands to make, in a clone of its own.
func handedOver(t *testing.T, copied bool, env ...string) (database, beside string) {
	t.Helper()
	root, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	script, err := os.ReadFile(filepath.Join("..", "..", "..", ".ci", "run"))
	require.NoError(t, err)
	for path, text := range map[string]string{
		"clone/.ci/run": string(script),
		"bin/make":      "#!/bin/sh\necho \"make $*, with $GOVULNDB\"\n",
	} {
		path = filepath.Join(root, path)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o755))
	}
	beside = filepath.Join(root, "shared", "vulndb")
	if copied {
		require.NoError(t, os.MkdirAll(beside, 0o755))
	}
	cmd := exec.Command(filepath.Join(root, "clone", ".ci", "run"))
	cmd.Dir = t.TempDir() // it may be started from anywhere
	cmd.Env = append([]string{"PATH=" + filepath.Join(root, "bin") + ":" + os.Getenv("PATH")}, env...)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	for line := range strings.Lines(string(out)) {
		if database, isTest := strings.CutPrefix(strings.TrimSpace(line), "make test, with"); isTest {
			return strings.TrimSpace(database), beside
		}
	}
	t.Fatalf("it does not run make test:\n%s", out)
	return "", ""
}

func TestCI_ChecksAgainstTheDatabaseBesideTheClone(t *testing.T) {
	database, beside := handedOver(t, true)
	require.Equal(t, "file://"+beside, database)
	database, _ = handedOver(t, false)
	require.Empty(t, database, "where there is none, the usual one")
	database, _ = handedOver(t, true, "GOVULNDB=https://vuln.go.dev")
	require.Equal(t, "https://vuln.go.dev", database, "a database that is named stays")
}
