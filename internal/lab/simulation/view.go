package simulation

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/term"
)

// view is the live view of a run.
type view struct {
	state atomic.Value // string
	drawn int          // lines that the next frame is drawn over
}

func (v *view) say(state string) { v.state.Store(state) }

// watch shows figures until ctx ends, and once more then.
func (s *shop) watch(ctx context.Context) {
	file, isFile := s.cfg.Out.(*os.File)
	moving := isFile && term.IsTerminal(int(file.Fd()))
	every := 2 * time.Second
	if moving {
		every = 250 * time.Millisecond
	} else {
		s.intro(s.cfg.Out)
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	said := ""
	for last := false; ; {
		select {
		case <-ctx.Done():
			last = true
		case <-tick.C:
		}
		frame := s.frame(context.WithoutCancel(ctx))
		if moving {
			width, _, err := term.GetSize(int(file.Fd()))
			if err != nil || width < 20 {
				width = 80
			}
			s.view.redraw(s.cfg.Out, frame.block(), width)
		} else {
			fmt.Fprintln(s.cfg.Out, frame.line())
			if outage := frame.outageLine(); outage != said {
				fmt.Fprintln(s.cfg.Out, "       "+outage)
				said = outage
			}
		}
		if last {
			return
		}
	}
}

func (s *shop) intro(out io.Writer) {
	fmt.Fprintln(out, path)
	if s.cfg.UI != "" {
		fmt.Fprintln(out, "Temporal UI: "+s.cfg.UI)
	}
}

const path = "orders → outbox → relay (Temporal) → SNS → SQS → inventory, billing, ledger"

// frame is a moment.
type frame struct {
	figures
	since, duration time.Duration
	state, ui       string
	pending         int    // -1: not known
	outage          *sight // nil if nothing is to be taken away
}

func (s *shop) frame(ctx context.Context) frame {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	// Before the figures, so that "published" is rather too low than too high.
	pending, err := s.pending(ctx)
	if err != nil {
		pending = -1
	}
	state, _ := s.view.state.Load().(string)
	return frame{
		figures: s.recorder.figures(), since: time.Since(s.began), duration: s.cfg.For,
		state: state, ui: s.cfg.UI, pending: pending, outage: s.outage.sight(),
	}
}

func (f frame) published() int {
	if f.pending < 0 {
		return 0
	}
	return max(0, f.events-f.pending)
}

func (f frame) block() []string {
	lines := []string{
		path,
		"",
		fmt.Sprintf("  orders committed   %8d      transactions rolled back %6d", f.orders, f.rolledBack),
		fmt.Sprintf("  events pending     %8d      published                %6d", f.pending, f.published()),
		fmt.Sprintf("  received           %8d      inventory %d · billing %d · ledger %d", f.total(),
			f.received[queueInventory], f.received[queueBilling], f.received[queueLedger]),
		fmt.Sprintf("  commit to received   median %s, p99 %s%s", ms(f.p50), ms(f.p99), f.without()),
		"",
	}
	if f.outage != nil {
		lines = append(lines, f.outage.block()...)
		lines = append(lines, "")
	}
	lines = append(lines, fmt.Sprintf("  %s  %s", f.bar(), f.state))
	if f.ui != "" {
		lines = append(lines, "  Temporal UI: "+f.ui)
	}
	return lines
}

func (f frame) line() string {
	line := fmt.Sprintf("%3.0f s  orders %d · rolled back %d · pending %d · published %d · received %d · median %s · p99 %s%s",
		f.since.Seconds(), f.orders, f.rolledBack, f.pending, f.published(), f.total(), ms(f.p50), ms(f.p99), f.without())
	if f.state != ordering {
		line += " · " + f.state
	}
	return line
}

func (f frame) outageLine() string {
	if f.outage == nil {
		return ""
	}
	return f.outage.line()
}

// without says whose latency is not among the figures: it would be all that they
// show.
func (f frame) without() string {
	if f.outage == nil {
		return ""
	}
	return " (without " + brokenTopic + ")"
}

func (f frame) total() int {
	return f.received[queueInventory] + f.received[queueBilling] + f.received[queueLedger]
}

func (f frame) bar() string {
	const width = 24
	filled := min(width, int(float64(width)*float64(f.since)/float64(f.duration)))
	return fmt.Sprintf("%s%s %2.0f s", strings.Repeat("█", filled), strings.Repeat("░", width-filled), f.since.Seconds())
}

func ms(d time.Duration) string {
	return fmt.Sprintf("%d ms", d.Round(time.Millisecond).Milliseconds())
}

// redraw writes lines over those of the last frame. Lines are cut to the width,
// because one that wraps would be two to go up.
func (v *view) redraw(out io.Writer, lines []string, width int) {
	var b strings.Builder
	if v.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", v.drawn)
	}
	for _, line := range lines {
		if runes := []rune(line); len(runes) >= width {
			line = string(runes[:width-1])
		}
		b.WriteString("\r" + line + "\x1b[K\n")
	}
	v.drawn = len(lines)
	_, _ = io.WriteString(out, b.String())
}
