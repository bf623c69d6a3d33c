package simulation

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
)

// problemLog is a slog.Handler that keeps what consumers complain of, so that it
// does not tear the view apart.
type problemLog struct {
	mu    sync.Mutex
	count map[string]int
}

// Enabled takes warnings and errors.
func (*problemLog) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelWarn }

// Handle counts records that say the same.
func (p *problemLog) Handle(_ context.Context, record slog.Record) error {
	text := []string{record.Message}
	onPurpose := false
	record.Attrs(func(a slog.Attr) bool {
		if err, ok := a.Value.Any().(error); ok && errors.Is(err, errOnPurpose) {
			onPurpose = true
		}
		if a.Key != "event" { // it would make each of them different
			text = append(text, a.Value.String())
		}
		return true
	})
	if onPurpose {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.count == nil {
		p.count = map[string]int{}
	}
	p.count[strings.Join(text, ": ")]++
	return nil
}

// WithAttrs and WithGroup are not used by the consumers.
func (p *problemLog) WithAttrs([]slog.Attr) slog.Handler { return p }

// WithGroup is not used by the consumers.
func (p *problemLog) WithGroup(string) slog.Handler { return p }

func (p *problemLog) list() (lines []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for text, n := range p.count {
		lines = append(lines, fmt.Sprintf("%s (%d times)", text, n))
	}
	slices.Sort(lines)
	return lines
}
