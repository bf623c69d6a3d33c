package stack

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/jedib0t/go-pretty/v6/progress"
	"golang.org/x/sys/unix"
)

// reporter shows the progress of the parts: as moving trackers on a terminal, and as lines
// elsewhere. In a log, silence would look like a hang.
type reporter struct {
	out      io.Writer
	every    time.Duration   // how often a slow step says on a plain output that it still runs
	trackers progress.Writer // nil on a plain output
	rendered chan struct{}
}

// step is one part's way from starting to ready.
type step struct {
	*reporter
	part    Part
	began   time.Time
	tracker *progress.Tracker

	mu    sync.Mutex
	text  string // the slow thing it does now, if any
	since time.Time
	said  *time.Ticker
	end   chan struct{}
}

func newReporter(out io.Writer) *reporter {
	r := &reporter{out: out, every: 15 * time.Second}
	if file, ok := out.(*os.File); !ok || !OnTerminal(file) {
		return r
	}
	r.trackers = progress.NewWriter()
	r.trackers.SetOutputWriter(out)
	r.trackers.SetMessageLength(74)
	r.trackers.SetUpdateFrequency(100 * time.Millisecond)
	r.trackers.SetTrackerLength(12)
	style := r.trackers.Style()
	style.Visibility = progress.StyleVisibility{Time: true, Tracker: true}
	style.Options.PercentIndeterminate = ""
	style.Options.TimeInProgressPrecision = time.Second
	style.Options.TimeDonePrecision = 100 * time.Millisecond
	r.rendered = make(chan struct{})
	go func() {
		r.trackers.Render()
		close(r.rendered)
	}()
	return r
}

// OnTerminal is true if file is the terminal that this process belongs to.
func OnTerminal(file *os.File) bool {
	_, err := unix.IoctlGetInt(int(file.Fd()), unix.TIOCGPGRP)
	return err == nil
}

func (r *reporter) start(part Part) *step {
	s := &step{reporter: r, part: part, began: time.Now(), end: make(chan struct{})}
	if r.trackers != nil {
		s.tracker = &progress.Tracker{Message: string(part) + ": starting"}
		r.trackers.AppendTracker(s.tracker)
	}
	return s
}

// slow says that the part now does something that takes a while. Saying the
// same twice changes nothing.
func (s *step) slow(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.text == text {
		return
	}
	s.text, s.since = text, time.Now()
	if s.tracker != nil {
		s.tracker.UpdateMessage(fmt.Sprintf("%s: %s", s.part, text))
		return
	}
	fmt.Fprintf(s.out, "%s: %s\n", s.part, text)
	if s.said == nil {
		s.said = time.NewTicker(s.every)
		go s.repeat()
	}
}

func (s *step) repeat() {
	for {
		select {
		case <-s.end:
			return
		case <-s.said.C:
			s.mu.Lock()
			if s.text != "" {
				fmt.Fprintf(s.out, "%s: %s (%s)\n", s.part, s.text, time.Since(s.since).Round(time.Second))
			}
			s.mu.Unlock()
		}
	}
}

// fast says that the slow thing is over.
func (s *step) fast() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text = ""
	if s.tracker != nil {
		s.tracker.UpdateMessage(string(s.part) + ": starting")
	}
}

func (s *step) done(about string) {
	s.finish()
	if s.tracker != nil {
		s.tracker.UpdateMessage(fmt.Sprintf("%s: %s", s.part, about))
		s.tracker.MarkAsDone()
		return
	}
	fmt.Fprintf(s.out, "%s: %s (%.1f s)\n", s.part, about, time.Since(s.began).Seconds())
}

// fail ends the step; loud where it is the one that broke the stack, whose
// reason Start returns.
func (s *step) fail(loud bool) {
	s.finish()
	switch {
	case s.tracker != nil && loud:
		s.tracker.MarkAsErrored()
	case s.tracker != nil:
		s.tracker.UpdateMessage(string(s.part) + ": stopped")
		s.tracker.MarkAsDone()
	}
}

func (s *step) finish() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text = ""
	close(s.end)
	if s.said != nil {
		s.said.Stop()
	}
}

// close leaves the last state on the terminal.
func (r *reporter) close() {
	if r.trackers == nil {
		return
	}
	// One more frame, or what happened last is not drawn.
	time.Sleep(150 * time.Millisecond)
	r.trackers.Stop()
	<-r.rendered
}
