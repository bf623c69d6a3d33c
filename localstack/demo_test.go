package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// fakeWorker starts a shell script in the worker's place.
func fakeWorker(t *testing.T, script string) *workerProcess {
	t.Helper()
	program := filepath.Join(t.TempDir(), "worker")
	require.NoError(t, os.WriteFile(program, []byte("#!/bin/sh\n"+script), 0o700))
	w, err := startWorker(program, filepath.Join(t.TempDir(), "worker.log"))
	require.NoError(t, err)
	t.Cleanup(w.stop)
	return w
}

func TestWorkerProcess_ThatDiesIsAnErrorWithTheEndOfItsLog(t *testing.T) {
	w := fakeWorker(t, "seq 1000; echo it hurts >&2; exit 3")
	select {
	case <-w.ended:
	case <-time.After(10 * time.Second):
		t.Fatal("it goes on")
	}
	err := w.failure()
	require.ErrorIs(t, err, errWorkerEnded)
	require.ErrorContains(t, err, "exit status 3")
	require.ErrorContains(t, err, w.log)
	require.ErrorContains(t, err, "| 1000\n    | it hurts")
	require.NotContains(t, err.Error(), "| 900\n", "only the end")
}

func TestWorkerProcess_ThatWasStoppedIsNoError(t *testing.T) {
	w := fakeWorker(t, "exec sleep 60")
	w.stop()
	<-w.ended
	require.NoError(t, w.failure())
}

func TestDemo_PassesItsFlagsToTheShop(t *testing.T) {
	cmd := demoCommand()
	for _, name := range []string{"for", "rate", "break"} {
		require.NotNil(t, cmd.Flags().Lookup(name), name)
	}
	d := demo{length: time.Minute, rate: 2.5}
	require.Equal(t, []string{"--for", "1m0s", "--rate", "2.5"}, d.shopArgs())
	d.broken = true
	require.Equal(t, []string{"--for", "1m0s", "--rate", "2.5", "--break"}, d.shopArgs())
}

func TestDemo_ThatFailsLeavesTheLogOfTheWorkerAndNothingElse(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		left []string
	}{
		"success":     {nil, nil},
		"failure":     {exitStatus(1), []string{"worker.log"}},
		"interrupted": {exitStatus(130), nil},
		"worker died": {errWorkerEnded, []string{"worker.log"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "demo")
			require.NoError(t, os.Mkdir(dir, 0o700))
			for _, file := range append(programs, "worker.log") {
				require.NoError(t, os.WriteFile(filepath.Join(dir, file), []byte("text"), 0o600))
			}
			(&demo{dir: dir, log: filepath.Join(dir, "worker.log")}).cleanUp(c.err)
			files, _ := filepath.Glob(filepath.Join(dir, "*"))
			require.Len(t, files, len(c.left), strings.Join(files, " "))
		})
	}
}
