package layout

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// The long test is run by hand, before a release: nobody may take an empty run for a
// good one.
func TestMakeFull_FailsUnlessItsTestRanAndPassed(t *testing.T) {
	_, err := exec.LookPath("make")
	if err != nil && os.Getenv("CI") == "" {
		t.Skip("there is no make")
	}
	require.NoError(t, err)
	makefile, err := filepath.Abs(filepath.Join("..", "..", "Makefile"))
	require.NoError(t, err)
	const passed = "=== RUN   TestX\n--- PASS: TestX (1.00s)\nPASS\n"
	for name, c := range map[string]struct {
		says string
		code string
		good bool
	}{
		"passed":            {passed + "ok  \texample.com/e2e\t1.0s\n", "0", true},
		"no test":           {"testing: warning: no tests to run\nPASS\nok  \texample.com/e2e\t0.1s [no tests to run]\n", "0", false},
		"skipped":           {"=== RUN   TestX\n--- SKIP: TestX (0.00s)\nPASS\nok  \texample.com/e2e\t0.1s\n", "0", false},
		"failed":            {"=== RUN   TestX\n--- FAIL: TestX (1.00s)\nFAIL\nFAIL\texample.com/e2e\t1.0s\n", "1", false},
		"passed and failed": {passed + "a leak\nFAIL\texample.com/e2e\t1.0s\n", "1", false},
		"nothing":           {"no stack\n", "1", false},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			// In the place of go. It also says which C compiler there is.
			script := "#!/bin/sh\n[ \"$1\" = env ] && { echo true; exit; }\ncat '" + dir + "/says'\nexit " + c.code + "\n"
			require.NoError(t, os.WriteFile(filepath.Join(dir, "go"), []byte(script), 0o755))
			require.NoError(t, os.WriteFile(filepath.Join(dir, "says"), []byte(c.says), 0o644))
			cmd := exec.CommandContext(t.Context(), "make", "-f", makefile, "full")
			cmd.Dir = dir
			cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"), "MAKEFLAGS=", "MAKELEVEL=")
			out, err := cmd.CombinedOutput()
			require.Contains(t, string(out), c.says, "its output is shown")
			if c.good {
				require.NoError(t, err, "%s", out)
			} else {
				require.Error(t, err, "%s", out)
				require.Contains(t, string(out), "the test failed, or none ran")
			}
		})
	}
}
