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

func TestTheInitHookMakesWhatApplyMakes(t *testing.T) {
	needInterop(t)
	file, err := filepath.Abs("../topology/topology.json")
	require.NoError(t, err)
	emulator, err := community.Start(t.Context(), community.Options{
		InitDir: "../init",
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

func TestAFailingInitHookFailsTheStart(t *testing.T) {
	needInterop(t)
	_, err := community.Start(t.Context(), community.Options{
		InitDir: "../init",
		Env:     []string{"TOPOLOGY_FILE=/nowhere.json"},
	})
	require.ErrorContains(t, err, "an init hook failed")
	require.ErrorContains(t, err, "/nowhere.json", "with LocalStack's log")
}
