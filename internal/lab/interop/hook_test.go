package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/lab/interop/community"
	"github.com/temporal-outbox/relay/localstack/topology"
)

// needInterop skips unless this runs under the interop command, which has
// installed LocalStack by then.
func needInterop(t *testing.T) {
	t.Helper()
	if os.Getenv("INTEROP") == "" {
		t.Skip("not under interop: run `make interop`")
	}
}

// initDir holds the hooks that docker-compose.yml mounts into LocalStack's container.
const initDir = "../../../localstack/init"

func TestInitHook_CreatesTheSameAsApply(t *testing.T) {
	file, err := filepath.Abs("../../../localstack/topology/topology.json")
	require.NoError(t, err)
	require.FileExists(t, file)
	require.DirExists(t, initDir)
	needInterop(t)
	emulator, err := community.Start(t.Context(), community.Options{
		InitDir: initDir,
		Env:     []string{"TOPOLOGY_FILE=" + file},
	})
	require.NoError(t, err)
	t.Cleanup(emulator.Stop)

	cfg, err := config.LoadDefaultConfig(t.Context(),
		config.WithBaseEndpoint(emulator.Endpoint),
		config.WithRegion("us-east-1"),
		config.WithCredentialsProvider(credentials.NewStaticCredentialsProvider("test", "test", "")))
	require.NoError(t, err)
	res, err := topology.Local().Apply(t.Context(), cfg)
	require.NoError(t, err)
	assert.Empty(t, res.Changes, "what Apply found different after the hook")
}

func TestInitHook_ThatFailsMakesTheStartFail(t *testing.T) {
	needInterop(t)
	_, err := community.Start(t.Context(), community.Options{
		InitDir: initDir,
		Env:     []string{"TOPOLOGY_FILE=/nowhere.json"},
	})
	require.ErrorContains(t, err, "an init hook failed")
	require.ErrorContains(t, err, "/nowhere.json", "with LocalStack's log")
}
