package composetest

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// make lint finds mistakes in the workflows; these are rules of ours.
func TestCI_PinsItsActionsAndUsesTheGoOfTheImage(t *testing.T) {
	builder := regexp.MustCompile(`golang:(\d+\.\d+\.\d+)-`).FindStringSubmatch(dockerfile(t))
	require.NotNil(t, builder)
	files, err := filepath.Glob(filepath.Join(root, ".github", "workflows", "*.yml"))
	require.NoError(t, err)
	require.Len(t, files, 2)
	actions, versions := 0, 0
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		for _, m := range regexp.MustCompile(`uses: ([^.\s]\S*)`).FindAllStringSubmatch(string(text), -1) {
			actions++
			assert.Regexp(t, `^[\w-]+/[\w-]+@v\d+\.\d+\.\d+$`, m[1], file)
		}
		for _, m := range regexp.MustCompile(`(?:go-version: |container: golang:)(\d\S*?)(?:-bookworm)?\n`).FindAllStringSubmatch(string(text), -1) {
			versions++
			assert.Equal(t, builder[1], m[1], file)
		}
		assert.Contains(t, string(text), "\npermissions:\n  contents: read\n", file)
	}
	assert.Greater(t, actions, 10)
	assert.Equal(t, 3, versions)
}
