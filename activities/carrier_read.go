package activities

import (
	"context"
	"log/slog"
	"time"

	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/timing"
)

const (
	// sweepEvery is the time between two searches for pending events that looks do not find, because they
	// have a lower id than events that were seen. Searches take at most one part of the time in
	// sweepShare.
	sweepEvery = 15 * time.Second
	sweepShare = 10
	// busyPoll is the shortest time between two looks for busyFor after one that found events, instead of
	// Config.PollEvery: the next event usually comes soon. A look costs the database a fraction of a millisecond, and
	// looks take at most one part of the time in pollShare.
	busyPoll = 5 * time.Millisecond
	busyFor  = time.Second
	// lookEvents is how many events one look finds at most.
	lookEvents = 1000
	// gapsMost bounds the gaps that a carrier remembers. While a transaction stays open, each insert that was
	// rolled back leaves one. To look for a gap costs the database as much as to read a few events again, and
	// a bound that is too small makes each look read most of the events since then.
	gapsMost = 10_000
)

// carrierReader finds the events of the shares, whose contents carrierLoader loads. Looks, pages and the first
// search of a share run one after the other, in one goroutine. That is why no event falls between them.
type carrierReader struct {
	store  ReadStore
	worker string
	hands  *hands
	// unsent is how many events the sender has to send.
	unsent func() int
	poll   time.Duration
	log    *slog.Logger

	gaps     *relay.Gaps // nil: the shares are not discovered in this history of the database
	last     relay.Ref   // the event with the highest id that was seen
	final    int64       // the highest that was seen
	server   time.Time   // whose answers these are
	most     int         // events that the next look finds at most
	lookAt   time.Time   // the next look
	busy     time.Time   // until when events are expected
	lastPage string      // the last topic of the last page
	failing  bool
}

// run reads until ctx ends.
func (r *carrierReader) run(ctx context.Context) {
	for ctx.Err() == nil {
		wait, err := r.turn(ctx)
		if err != nil && ctx.Err() == nil {
			if !r.failing {
				r.log.Warn("events could not be read from the database; the worker tries again", "error", err)
			}
			wait = timing.DatabaseRetryPauseFirst
		}
		r.failing = err != nil
		if wait == 0 {
			continue
		}
		var over <-chan time.Time
		if wait > 0 {
			over = time.After(wait)
		}
		wake := r.hands.wakeReader
		if err != nil {
			wake = nil
		}
		select {
		case <-ctx.Done():
		case <-over:
		case <-wake:
		}
	}
}

// turn reads once what there is to read. It returns how long to wait for the next turn; less than 0:
// until something happens.
func (r *carrierReader) turn(ctx context.Context) (wait time.Duration, err error) {
	p := r.hands.plan(r.lastPage, r.unsent())
	if len(p.open)+len(p.fresh) == 0 {
		if r.gaps != nil {
			r.begin()
		}
		if p.wait > 0 {
			return p.wait, nil
		}
		return -1, nil
	}
	switch {
	case len(p.fresh) > 0:
		return r.discover(ctx, p)
	case p.room <= 0:
		return -1, nil
	}
	if !time.Now().Before(r.lookAt) {
		if err := r.look(ctx, p); err != nil {
			return 0, err
		}
		if r.gaps == nil {
			return 0, nil // the plan is for another history
		}
	}
	got := false
	if len(p.hot) > 0 {
		if got, err = r.hot(ctx, p); err != nil || r.gaps == nil {
			return 0, err
		}
	}
	if len(p.pages) > 0 {
		more, err := r.pages(ctx, p)
		if got = got || more; !got {
			return r.poll, err // there was no room for the next event
		}
		return 0, err
	}
	if got {
		return 0, nil
	}
	return max(time.Until(r.lookAt), 0), nil
}

// begin forgets all reads: the shares will be discovered anew.
func (r *carrierReader) begin() {
	r.hands.forgetHistory()
	r.gaps, r.last, r.final, r.server, r.lookAt = nil, relay.Ref{}, 0, time.Time{}, time.Time{}
}

// discover finds the lanes of new shares that have pending events. If some of the shares are not held any
// more, it waits a little: the next attendance will say so.
func (r *carrierReader) discover(ctx context.Context, p readPlan) (wait time.Duration, err error) {
	asked := time.Now()
	d, err := r.store.Discover(ctx, r.worker, p.fresh)
	if err != nil {
		return 0, err
	}
	if d.Final < r.final || r.isOther(d.Server) {
		r.begin()
		return 0, nil
	}
	if r.gaps == nil {
		r.gaps, r.server, r.most = relay.NewGaps(d.Final, gapsMost), d.Server, lookEvents
	}
	if r.hands.discovered(p, p.fresh, d); len(d.Held) < len(p.fresh) {
		wait = max(r.poll, (pollShare-1)*time.Since(asked))
	}
	return wait, nil
}

// isOther reports whether an answer is from another server than those before. It may have another
// history of the database.
func (r *carrierReader) isOther(server time.Time) bool {
	return !r.server.IsZero() && !server.Equal(r.server)
}

// sweep searches all shares for pending events that looks do not find, until ctx ends. Looks go on
// meanwhile: while a snapshot is held open somewhere, a search takes long.
func (r *carrierReader) sweep(ctx context.Context) {
	for took := time.Duration(0); pauseFor(ctx, max(sweepEvery, (sweepShare-1)*took)); {
		p := r.hands.plan("", 0)
		if len(p.open) == 0 {
			continue
		}
		asked, read := time.Now(), r.hands.beginRead()
		// The next search takes the place of one that failed, and the looks say if the database is away.
		if d, err := r.store.Discover(ctx, r.worker, p.open); err == nil {
			r.hands.swept(read, p, d)
		}
		r.hands.endRead(read)
		took = time.Since(asked)
	}
}

// pauseFor waits. It reports false if ctx ends before.
func pauseFor(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// look finds new events of all topics.
func (r *carrierReader) look(ctx context.Context, p readPlan) error {
	asked, read := time.Now(), r.hands.beginRead()
	defer r.hands.endRead(read)
	l, err := r.store.Look(ctx, relay.Look{
		Worker: r.worker, Lanes: p.open, Ranges: r.gaps.Ranges(), Last: r.last, Final: r.final, Server: r.server, Most: r.most,
		Along: len(p.pages) == 0, // or most events that it finds may be of lanes with a backlog, whose pages bring them
	})
	if err != nil {
		return err
	}
	if !l.SameHistory || l.Final < r.final {
		r.log.Warn("the database has another history; the worker reads all its lanes again")
		r.begin()
		return nil
	}
	keys, err := r.keys(ctx, read, false, narrow(l.Events))
	if err != nil {
		return err
	}
	r.final = l.Final
	r.hands.looked(read, p, l, keys, asked)
	for _, e := range l.Events {
		if e.ID > r.last.ID {
			r.last = e.Ref
		}
	}
	if r.gaps.Looked(l) {
		r.most = lookEvents
	} else if l.More {
		// All were seen before, between gaps that were merged.
		r.most *= 2
	}
	r.lookAt = time.Now()
	if len(l.Events) > 0 {
		r.busy = r.lookAt.Add(busyFor)
	}
	if !l.More {
		r.lookAt = r.lookAt.Add(max(r.interval(), (pollShare-1)*time.Since(asked)))
	}
	return nil
}

// interval is the shortest time until the next look.
func (r *carrierReader) interval() time.Duration {
	if time.Now().Before(r.busy) {
		return min(r.poll, busyPoll)
	}
	return r.poll
}

// pages reads the next pending events of lanes that have a backlog.
func (r *carrierReader) pages(ctx context.Context, p readPlan) (got bool, err error) {
	cursors := make([]relay.LaneCursor, len(p.pages))
	for i, page := range p.pages {
		cursors[i] = page.cursor
	}
	r.lastPage = cursors[len(cursors)-1].Topic
	return r.page(ctx, cursors, false, func(read *read, pages relay.Pages, keys keys, asked time.Time) bool {
		got, again := r.hands.paged(read, p, pages, keys, asked)
		r.gaps.Again(again)
		return got
	})
}

// hot reads the next events of hot keys that have few in hand.
func (r *carrierReader) hot(ctx context.Context, p readPlan) (got bool, err error) {
	cursors := make([]relay.LaneCursor, len(p.hot))
	for i, page := range p.hot {
		cursors[i] = page.cursor
	}
	return r.page(ctx, cursors, true, func(read *read, pages relay.Pages, keys keys, asked time.Time) bool {
		return r.hands.hotPaged(read, p, pages, keys, asked)
	})
}

// page reads lanes from their cursors on, and gives take the pages, unless they are of another history of the
// database. got reports whether that has brought the reader on. forHot is that of keys.
func (r *carrierReader) page(ctx context.Context, cursors []relay.LaneCursor, forHot bool,
	take func(*read, relay.Pages, keys, time.Time) (got bool),
) (got bool, err error) {
	asked, read := time.Now(), r.hands.beginRead()
	defer r.hands.endRead(read)
	most := 0
	for _, c := range cursors {
		most += c.Most
	}
	pages, err := r.store.Pages(ctx, r.worker, cursors, most)
	if err != nil {
		return false, err
	}
	if pages.Final < r.final || r.isOther(pages.Server) {
		r.begin()
		return true, nil
	}
	keys, err := r.keys(ctx, read, forHot, pages.Events)
	if err != nil {
		return false, err
	}
	return take(read, pages, keys, asked), nil
}

// keys reads the keys of events that a read has found and that came without their contents, as far as they
// have to be known before events are taken. forHot says that the read was for events of hot keys.
func (r *carrierReader) keys(ctx context.Context, read *read, forHot bool, events []relay.Narrow) (keys, error) {
	wanted := r.hands.keyless(read, forHot, events)
	if len(wanted) == 0 {
		return nil, nil
	}
	found, err := r.store.Keys(ctx, wanted)
	if err != nil {
		return nil, err
	}
	keys := make(keys, len(wanted))
	for i, e := range wanted {
		keys[e.Ref] = found[i]
	}
	return keys, nil
}

// narrow returns the events of a look that are pending in the carrier's lanes.
func narrow(found []relay.Found) (events []relay.Narrow) {
	for _, e := range found {
		if e.Topic != "" && e.Pending {
			events = append(events, relay.Narrow{Topic: e.Topic, Ref: e.Ref, Content: e.Content})
		}
	}
	return events
}
