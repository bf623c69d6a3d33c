package workers

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// newPool starts a shell script in the worker's place.
func newPool(t *testing.T, script string) *Pool {
	t.Helper()
	dir := t.TempDir()
	program := filepath.Join(dir, "worker")
	require.NoError(t, os.WriteFile(program, []byte("#!/bin/sh\n"+script), 0o700))
	return Start(t.Context(), Config{Program: program, Dir: dir, Environ: os.Environ(), Workers: 2, Deployment: "d"})
}

const ready = "echo msg=publishing $TEMPORAL_WORKER_BUILD_ID; "

func await(t *testing.T, p *Pool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	require.NoError(t, p.Await(ctx))
}

// processes are those that run now.
func (p *Pool) pids() (pids []int) {
	for _, s := range p.all() {
		if proc := s.process(); proc != nil {
			pids = append(pids, proc.cmd.Process.Pid)
		}
	}
	return pids
}

func TestPool_ReplacesAKilledWorker(t *testing.T) {
	p := newPool(t, ready+"exec sleep 60")
	await(t, p)
	before := p.pids()
	p.Kill(0)
	p.Terminate(1)
	require.Eventually(t, func() bool {
		now := p.pids()
		return now[0] != before[0] && now[1] != before[1]
	}, 10*time.Second, 20*time.Millisecond)
	await(t, p)
	require.Empty(t, p.Stop(), "they were told to")
}

func TestPool_ReportsAWorkerThatEndsByItself(t *testing.T) {
	p := newPool(t, ready+"echo panic: it hurts; sleep 0.5; exit 3")
	require.Eventually(t, func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.ends) > 0
	}, 10*time.Second, 20*time.Millisecond)
	problems := p.Stop()
	require.Contains(t, problems[0], "exit status 3")
	require.Contains(t, problems[len(problems)-1], "it hurts", "a panic in any log")
}

func TestPool_WaitsBeforeItReplacesAWorkerThatCouldNotBegin(t *testing.T) {
	p := newPool(t, "exit 1")
	number := func() int {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.started
	}
	require.Eventually(t, func() bool { return number() == 2 }, 10*time.Second, time.Millisecond)
	for _, s := range p.all() {
		require.Eventually(t, func() bool { return s.process() != nil }, 10*time.Second, time.Millisecond)
		<-s.process().exited
	}
	require.Never(t, func() bool { return number() > 2 }, 2*restartPause, 10*time.Millisecond)
	require.Eventually(t, func() bool { return number() > 2 }, 10*failedPause, 10*time.Millisecond)
	require.Empty(t, p.Stop(), "it said why")
}

func TestStall_StopsAWorkerUntilItEnds(t *testing.T) {
	p := newPool(t, ready+"while :; do echo tick; sleep 0.05; done")
	await(t, p)
	log := p.slots[0].process().log
	size := func() int64 {
		info, err := os.Stat(log)
		require.NoError(t, err)
		return info.Size()
	}
	done := make(chan struct{})
	go func() { defer close(done); p.Stall(t.Context(), 0, 5*time.Second) }()
	var stalled int64
	require.Eventually(t, func() bool {
		stalled = size()
		time.Sleep(300 * time.Millisecond) // six ticks
		return size() == stalled
	}, 4*time.Second, time.Millisecond)
	select {
	case <-done:
		t.Error("it goes on, and says nothing")
	default:
	}
	<-done
	require.Eventually(t, func() bool { return size() > stalled }, 5*time.Second, 20*time.Millisecond)
	require.Empty(t, p.Stop())
}

func TestFreeze_IsToldOfEachWorkerThatItsEndThaws(t *testing.T) {
	p := newPool(t, ready+"exec sleep 60")
	await(t, p)
	var mu sync.Mutex
	stood := map[string]time.Duration{}
	p.cfg.Stood = func(process string, from, to time.Time) {
		mu.Lock()
		defer mu.Unlock()
		stood[process] = to.Sub(from)
	}
	p.Freeze()
	p.Thaw()
	require.Len(t, stood, 2)
	for process, d := range stood {
		require.Positive(t, d, process)
	}
	clear(stood)
	p.Freeze()
	p.KillAll()
	p.Thaw()
	require.Empty(t, stood, "they are dead")
	require.Empty(t, p.Stop())
}

func TestRenew_RunsBothVersionsUntilTheOldOneIsRetired(t *testing.T) {
	p := newPool(t, ready+"exec sleep 60")
	await(t, p)
	require.Equal(t, "v1", p.Version())
	version, retire := p.Renew()
	require.Equal(t, "v2", version)
	await(t, p)
	require.Len(t, p.pids(), 4)
	retire()
	require.Len(t, p.pids(), 2)
	text, err := os.ReadFile(p.all()[0].process().log)
	require.NoError(t, err)
	require.Contains(t, string(text), "v2")
	require.Empty(t, p.Stop())
}
