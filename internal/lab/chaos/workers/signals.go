package workers

import (
	"context"
	"syscall"
	"time"
)

// chosen is one of the workers, or nil if there is none.
func (p *Pool) chosen(n int) *slot {
	all := p.all()
	if len(all) == 0 {
		return nil
	}
	return all[n%len(all)]
}

// Kill kills a worker. Another takes its place.
func (p *Pool) Kill(n int) {
	if s := p.chosen(n); s != nil {
		p.cfg.Ended(s.signal(syscall.SIGKILL, true), time.Now())
	}
}

// TerminateAll asks all workers to end. Others take their places.
func (p *Pool) TerminateAll() {
	for _, s := range p.all() {
		s.signal(syscall.SIGTERM, true)
	}
}

// Terminate asks a worker to end. Another takes its place.
func (p *Pool) Terminate(n int) {
	if s := p.chosen(n); s != nil {
		s.signal(syscall.SIGTERM, true)
	}
}

// Stall stops a worker's clock for a while.
func (p *Pool) Stall(ctx context.Context, n int, d time.Duration) {
	s := p.chosen(n)
	if s == nil {
		return
	}
	began := time.Now()
	process := s.signal(syscall.SIGSTOP, false)
	defer func() {
		s.signal(syscall.SIGCONT, false)
		p.cfg.Stood(process, began, time.Now())
	}()
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// Freeze stops all workers' clocks at once. End it with Thaw or KillAll.
func (p *Pool) Freeze() {
	now := time.Now()
	for _, s := range p.all() {
		process := s.signal(syscall.SIGSTOP, false)
		p.mu.Lock()
		p.frozen[process] = now
		p.mu.Unlock()
	}
}

// Thaw ends a Freeze.
func (p *Pool) Thaw() {
	for _, s := range p.all() {
		s.signal(syscall.SIGCONT, false)
	}
	p.mu.Lock()
	frozen := p.frozen
	p.frozen = map[string]time.Time{}
	p.mu.Unlock()
	for process, from := range frozen {
		p.cfg.Stood(process, from, time.Now())
	}
}

// KillAll kills all workers. Others take their places.
func (p *Pool) KillAll() {
	for _, s := range p.all() {
		p.cfg.Ended(s.signal(syscall.SIGKILL, true), time.Now())
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.frozen)
}

// Renew starts as many workers of a new version as there are, beside them, and
// returns a function that stops the old ones. Until it is called both are there.
func (p *Pool) Renew() (version string, retire func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	old := p.slots
	p.slots = nil
	p.version++
	for range p.cfg.Workers {
		p.add()
	}
	renewed := p.slots
	p.slots = append(append([]*slot(nil), old...), renewed...)
	return buildID(p.version), func() {
		p.mu.Lock()
		kept := p.slots[:0:0]
		for _, s := range p.slots {
			if s.version >= renewed[0].version {
				kept = append(kept, s)
			}
		}
		p.slots = kept
		p.mu.Unlock()
		for _, s := range old {
			s.retire.Do(func() { close(s.retired) })
		}
	}
}
