// Package workers runs worker processes, and kills, stops and stalls them, or replaces
// them by another version. Like an orchestrator it starts another process when one has
// ended.
package workers

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Config configures a Pool. Program, Dir and Environ are required.
type Config struct {
	Program string   // the built worker
	Dir     string   // for logs
	Environ []string // of every worker
	Workers int      // how many. Default 2
	// Own is added to the environment of a worker, by its number; the first one is 1. Default: nothing.
	Own func(worker int) []string
	// Deployment makes the workers versions of a Worker Deployment, beginning with
	// v1. Default: unversioned.
	Deployment string
	// Ended is told of a process that was killed, and Stood of one that stood still, by its
	// name.
	Ended func(process string, at time.Time)
	Stood func(process string, from, to time.Time)
}

// Pool keeps a number of workers running.
type Pool struct {
	cfg     Config
	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup

	mu      sync.Mutex
	version int
	slots   []*slot
	ends    []string // of workers that ended without being told to
	started int
	frozen  map[string]time.Time // since when, by process
}

// slot is a worker's place: one process after another.
type slot struct {
	version int
	mu      sync.Mutex
	proc    *process
	told    bool // to end, or to be killed
	retired chan struct{}
	retire  sync.Once
}

// Start starts the workers. It does not wait for them.
func Start(ctx context.Context, cfg Config) *Pool {
	if cfg.Workers == 0 {
		cfg.Workers = 2
	}
	if cfg.Ended == nil {
		cfg.Ended = func(string, time.Time) {}
	}
	if cfg.Stood == nil {
		cfg.Stood = func(string, time.Time, time.Time) {}
	}
	if cfg.Own == nil {
		cfg.Own = func(int) []string { return nil }
	}
	ctx, cancel := context.WithCancel(ctx)
	p := &Pool{cfg: cfg, ctx: ctx, cancel: cancel, version: 1, frozen: map[string]time.Time{}}
	for range cfg.Workers {
		p.add()
	}
	return p
}

// add makes another slot of the current version. The caller holds p.mu, or the only
// reference to p.
func (p *Pool) add() {
	s := &slot{version: p.version, retired: make(chan struct{})}
	p.slots = append(p.slots, s)
	p.running.Go(func() { p.keep(s) })
}

// Version is the build id of the newest workers.
func (p *Pool) Version() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return buildID(p.version)
}

func buildID(n int) string { return fmt.Sprintf("v%d", n) }

// restartPause is the time from the end of a process to the start of the next one, and failedPause that
// after a process that could not begin to publish. Each start asks AWS for all topics, so too many of them
// keep the others from AWS.
const (
	restartPause = 300 * time.Millisecond
	failedPause  = 3 * time.Second
)

// keep runs a slot's processes until it is retired or the pool stops.
func (p *Pool) keep(s *slot) {
	for {
		proc, err := p.launch(s.version)
		if err != nil {
			p.note("start a worker: " + err.Error())
			return
		}
		s.mu.Lock()
		s.proc, s.told = proc, false
		s.mu.Unlock()
		gone := false
		select {
		case <-proc.exited:
		case <-s.retired:
			gone = true
		case <-p.ctx.Done():
			gone = true
		}
		if gone {
			if !proc.stop() {
				p.cfg.Ended(proc.name, time.Now())
			}
			return
		}
		s.mu.Lock()
		told := s.told
		s.mu.Unlock()
		pause := restartPause
		if !told {
			p.cfg.Ended(proc.name, time.Now())
		}
		switch {
		case told:
		case !proc.published(): // it found PostgreSQL or Temporal away, and said so
			pause = failedPause
		default:
			p.note(fmt.Sprintf("a worker ended by itself (%s): %s", proc.cmd.ProcessState, proc.words()))
		}
		select {
		case <-time.After(pause):
		case <-s.retired:
			return
		case <-p.ctx.Done():
			return
		}
	}
}

func (p *Pool) launch(version int) (*process, error) {
	p.mu.Lock()
	p.started++
	number := p.started
	p.mu.Unlock()
	name := fmt.Sprintf("worker-%02d", number)
	// Requests are signed with it, so that the proxy before AWS knows who sends them.
	env := slices.Concat(p.cfg.Environ, []string{"AWS_ACCESS_KEY_ID=" + name, "PGAPPNAME=" + name}, p.cfg.Own(number))
	if p.cfg.Deployment != "" {
		env = append(env, "TEMPORAL_DEPLOYMENT_NAME="+p.cfg.Deployment, "TEMPORAL_WORKER_BUILD_ID="+buildID(version))
	}
	return launch(p.cfg.Program, name, filepath.Join(p.cfg.Dir, name+".log"), env)
}

func (p *Pool) note(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ends = append(p.ends, text)
}

// Await waits until every worker publishes.
func (p *Pool) Await(ctx context.Context) error {
	for {
		waiting := 0
		for _, s := range p.all() {
			if proc := s.process(); proc == nil || !proc.publishing() {
				waiting++
			}
		}
		if waiting == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d workers do not get ready: %w; the last says: %s", waiting, context.Cause(ctx), p.lastWords())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (p *Pool) lastWords() string {
	for _, s := range p.all() {
		if proc := s.process(); proc != nil && !proc.publishing() {
			return proc.words()
		}
	}
	return ""
}

func (p *Pool) all() []*slot {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]*slot(nil), p.slots...)
}

func (s *slot) process() *process {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.proc
}

// signal sends a signal to a slot's process and returns its name; told says that it is to
// end of it.
func (s *slot) signal(sig syscall.Signal, told bool) (process string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc == nil {
		return ""
	}
	s.told = s.told || told
	_ = s.proc.cmd.Process.Signal(sig)
	return s.proc.name
}

// Stop ends all workers the polite way and returns what went wrong with them:
// workers that ended without being told to, and panics.
func (p *Pool) Stop() (problems []string) {
	for _, s := range p.all() {
		s.signal(syscall.SIGCONT, false)
	}
	p.cancel()
	p.running.Wait()
	logs, _ := filepath.Glob(filepath.Join(p.cfg.Dir, "worker-*.log"))
	for _, log := range logs {
		text, _ := os.ReadFile(log)
		for _, sign := range []string{"panic:", "fatal error:", "DATA RACE"} {
			if _, rest, found := strings.Cut(string(text), sign); found {
				p.ends = append(p.ends, fmt.Sprintf("%s: %s%.500s", filepath.Base(log), sign, rest))
			}
		}
	}
	return p.ends
}
