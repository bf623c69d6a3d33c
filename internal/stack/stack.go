package stack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"
)

// Part is one of the servers of a Stack.
type Part string

// The parts, as they are named in status lines and in the --only flag.
const (
	Postgres Part = "postgres"
	Temporal Part = "temporal"
	AWS      Part = "aws"
)

// Parts are all of them.
func Parts() []Part { return []Part{Postgres, Temporal, AWS} }

// Options says what to start and where to report. Its zero value starts all
// parts that the process's environment does not name and reports to stderr.
type Options struct {
	// Getenv reads the environment. Default os.Getenv.
	Getenv func(string) string
	// Only leaves the other parts alone. Default all parts.
	Only []Part
	// Status receives progress; a terminal gets moving trackers, anything else
	// plain lines. Default os.Stderr.
	Status io.Writer
	// ToolsDir holds the tools that are built or downloaded. Default $OUTBOX_TOOLS, else
	// .tools beside the module's go.mod, else the user's cache directory.
	ToolsDir string
	// Durable keeps the state of the parts when they are interrupted and resumed:
	// Temporal's dev server then has its state in a file, and not in memory.
	Durable bool
}

// Stack is a set of parts that answer. Stop it, or its processes end with this
// one.
type Stack struct {
	opt      Options
	dir      *tempDir
	freePort func() (int, error)
	services map[Part]*service
	cluster  *Cluster // nil until Cluster is called

	stopping sync.Once
	failed   sync.Once
	changing sync.Mutex // a part is being interrupted or resumed
	done     chan struct{}
	err      error
}

// service is one part that answers, started here or named by the environment.
type service struct {
	about string   // for people: "PostgreSQL 15.18 on 127.0.0.1:41234"
	env   []string // what clients need, as KEY=VALUE
	unset []string // variables that would lead clients elsewhere
	proc  *process // nil when the environment names the part
	// again starts the part once more, at its address and with its data. Nil if it
	// keeps no data.
	again func(context.Context) (*process, error)
	// postgres is the server that was started here for this part.
	postgres *server
}

// Start starts the parts in parallel and returns once each of them answers. If
// one fails, or ctx ends first, the others are stopped and the error names the
// part, with the end of its log and what to do about it.
func Start(ctx context.Context, opt Options) (*Stack, error) {
	opt = opt.withDefaults()
	dir, err := newTempDir()
	if err != nil {
		return nil, fmt.Errorf("make a directory for the stack: %w", err)
	}
	s := &Stack{opt: opt, dir: dir, freePort: freePort, services: map[Part]*service{}, done: make(chan struct{})}
	if err := s.start(ctx); err != nil {
		s.Stop()
		return nil, err
	}
	return s, nil
}

func (s *Stack) start(ctx context.Context) error {
	status := newReporter(s.opt.Status)
	defer status.close()

	var mu sync.Mutex
	group, ctx := errgroup.WithContext(ctx)
	for _, part := range s.opt.Only {
		step := status.start(part)
		group.Go(func() error {
			svc, err := s.startPart(ctx, part, step)
			if err != nil {
				// A part that stopped because another failed is not news.
				step.fail(ctx.Err() == nil)
				return fmt.Errorf("%s did not start: %w", part, err)
			}
			step.done(svc.about)
			mu.Lock()
			defer mu.Unlock()
			s.services[part] = svc
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for part, svc := range s.services {
		if svc.proc != nil {
			go s.watch(part, svc.proc)
		}
	}
	return nil
}

func (o Options) withDefaults() Options {
	if o.Getenv == nil {
		o.Getenv = os.Getenv
	}
	if o.Status == nil {
		o.Status = os.Stderr
	}
	if o.ToolsDir == "" {
		o.ToolsDir = toolsDir(o.Getenv)
	}
	if len(o.Only) == 0 {
		o.Only = Parts()
	}
	o.Only = slices.Compact(slices.Sorted(slices.Values(o.Only)))
	return o
}

func (s *Stack) startPart(ctx context.Context, part Part, step *step) (*service, error) {
	switch part {
	case Postgres:
		return s.startPostgres(ctx, step)
	case Temporal:
		return s.startTemporal(ctx, step)
	case AWS:
		return s.startAWS(ctx, step)
	default:
		return nil, fmt.Errorf("no such part; there are %v", Parts())
	}
}

// watch notices a part that ends by itself.
func (s *Stack) watch(part Part, proc *process) {
	<-proc.exited
	if proc.stopped.Load() {
		return
	}
	s.failed.Do(func() {
		s.err = fmt.Errorf("%s ended by itself: %w", part, proc.failure(errors.New("while it was in use")))
		close(s.done)
	})
}

// Done is closed when a part that was started here ends by itself; Err then
// says which and why.
func (s *Stack) Done() <-chan struct{} { return s.done }

// Err is nil until Done is closed.
func (s *Stack) Err() error {
	select {
	case <-s.done:
		return s.err
	default:
		return nil
	}
}

// Stop ends what Start started and removes its data. It may be called more than
// once, and takes a second or two at most.
func (s *Stack) Stop() {
	s.stopping.Do(func() {
		var wg sync.WaitGroup
		for _, proc := range s.dir.processes() {
			wg.Go(proc.stop)
		}
		wg.Wait()
		s.dir.remove()
	})
}
