package community

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestVenv_WithoutItsPythonSaysTheRemedy(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	t.Setenv("HOME", t.TempDir())
	t.Setenv("PYENV_ROOT", t.TempDir())
	t.Setenv("INTEROP_PYTHON", "")
	dir := filepath.Join(t.TempDir(), "venv")
	_, err := ensureVenv(t.Context(), dir, io.Discard)
	require.ErrorIs(t, err, errNoPython)
	require.ErrorContains(t, err, "pyenv")
}

func TestVenv_ThatIsCompleteIsUsedAsItIs(t *testing.T) {
	t.Setenv("PATH", "") // nothing can be installed
	t.Setenv("HOME", "")
	dir := filepath.Join(t.TempDir(), "venv")
	require.NoError(t, os.MkdirAll(dir, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "complete"), stamp(), 0o600))
	python, err := ensureVenv(t.Context(), dir, io.Discard)
	require.NoError(t, err)
	assert.Equal(t, filepath.Join(dir, "bin", "python"), python)
}

func TestConstraints_PinEveryPackage(t *testing.T) {
	for line := range strings.Lines(string(constraints)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		assert.Regexp(t, `^[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*$`, line)
	}
}
