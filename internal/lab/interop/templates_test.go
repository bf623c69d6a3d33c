package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/lab/interop/community"
)

// lint runs cfn-lint, which has the schemas of all resources with it, on templates.
func lint(t *testing.T, files ...string) (string, error) {
	t.Helper()
	python, err := community.Python(t.Context(), community.Options{})
	require.NoError(t, err)
	// The package is run as its command would run it, wherever the environment is.
	args := append([]string{"-c", "import sys; from cfnlint.runner import main; sys.exit(main())", "--"}, files...)
	out, err := exec.CommandContext(t.Context(), python, args...).CombinedOutput()
	return string(out), err
}

func TestTemplates_PassTheirLinter(t *testing.T) {
	needInterop(t)
	files, err := filepath.Glob("../../../deploy/aws/*.yaml")
	require.NoError(t, err)
	require.Len(t, files, 3)
	out, err := lint(t, files...)
	require.NoError(t, err, out)
	require.Empty(t, strings.TrimSpace(out))
}

func TestTemplates_AMistakeIsFound(t *testing.T) {
	needInterop(t)
	for file, mistake := range map[string][2]string{
		"messaging.yaml": {"RawMessageDelivery: true", "RawDelivery: true"},
		"worker.yaml":    {"StopTimeout: 40", "StopTimeout: soon"},
		"eks.yaml":       {"RoleArn: !GetAtt Role.Arn", "RoleArn: !GetAtt Roles.Arn"},
	} {
		text, err := os.ReadFile(filepath.Join("..", "..", "..", "deploy", "aws", file))
		require.NoError(t, err)
		wrong := strings.Replace(string(text), mistake[0], mistake[1], 1)
		require.NotEqual(t, string(text), wrong, file)
		copied := filepath.Join(t.TempDir(), file)
		require.NoError(t, os.WriteFile(copied, []byte(wrong), 0o600))
		out, err := lint(t, copied)
		require.Error(t, err, file)
		assert.Contains(t, out, "E", file)
	}
}
