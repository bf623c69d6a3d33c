package main

import (
	"compress/gzip"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// gzipped serves a database directory the way that the original is served.
func gzipped(t *testing.T, dir string) http.Handler {
	t.Helper()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, err := os.ReadFile(filepath.Join(dir, filepath.Clean(strings.TrimSuffix(r.URL.Path, ".gz"))))
		if err != nil {
			http.NotFound(w, r)
			return
		}
		zip := gzip.NewWriter(w)
		if _, err := zip.Write(text); err != nil {
			t.Error(err)
		}
		if err := zip.Close(); err != nil {
			t.Error(err)
		}
	})
}
