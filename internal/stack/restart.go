package stack

import (
	"context"
	"fmt"
)

// Interrupt ends a part as a crash does: PostgreSQL by its immediate shutdown,
// which leaves recovery to the next start, Temporal by SIGKILL. Nothing listens at its
// address until Resume. It fails for a part that was not started
// here or would come back empty (see Options.Durable).
func (s *Stack) Interrupt(part Part) error {
	s.changing.Lock()
	defer s.changing.Unlock()
	svc, err := s.restartable(part)
	if err != nil {
		return err
	}
	svc.proc.stop()
	return nil
}

// Resume starts an interrupted part again, on the same ports and with its data, and
// returns once it answers.
func (s *Stack) Resume(ctx context.Context, part Part) error {
	s.changing.Lock()
	defer s.changing.Unlock()
	svc, err := s.restartable(part)
	if err != nil {
		return err
	}
	proc, err := svc.again(ctx)
	if err != nil {
		if proc != nil {
			proc.stop()
		}
		return fmt.Errorf("%s did not come back: %w", part, err)
	}
	svc.proc = proc
	go s.watch(part, proc)
	return nil
}

func (s *Stack) restartable(part Part) (*service, error) {
	svc := s.services[part]
	switch {
	case svc == nil || svc.proc == nil:
		return nil, fmt.Errorf("%s was not started here", part)
	case svc.again == nil:
		return nil, fmt.Errorf("%s would forget everything: start the stack with Durable", part)
	}
	return svc, nil
}
