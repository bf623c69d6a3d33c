package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/outbox"
)

// Progress gets the part, from 0 to 1, of the events that has been read. It may be nil.
type Progress = relay.Progress

func read(p Progress, events, all int64) {
	if p != nil {
		p(min(1, float64(events)/float64(max(1, all))))
	}
}

// An event's time is near the time in its id of version 7, unless clocks differ or the id was made
// long before the event was written.
var idSlacks = []time.Duration{time.Minute, 24 * time.Hour}

const byEventIDSQL = `
SELECT e.id, e.event_id::text, e.topic, e.key, e.lane, e.type, ` + shownFrom + `e.created_at` + shownTo + `, e.created_at FROM outbox.event e
WHERE e.event_id = $1 AND e.id > $2 AND e.id <= $3
ORDER BY e.id LIMIT 20`

// ByEventID returns the events with an id: usually one, and none if no event has it or retention
// has dropped the event. It looks for an id of version 7 around the time in the id first. For any
// other id, or if it does not find the event, it reads all events.
func (s *Store) ByEventID(ctx context.Context, id outbox.ID, progress Progress) (found []EventLife, err error) {
	return s.byEventID(ctx, id, progress, func(after, upTo int64) ([]EventLife, error) {
		return s.lives(ctx, byEventIDSQL, id, after, upTo)
	})
}

func (s *Store) byEventID(ctx context.Context, id outbox.ID, progress Progress, read func(after, upTo int64) ([]EventLife, error),
) (found []EventLife, err error) {
	first, last, err := s.bounds(ctx, span{})
	if err != nil {
		return nil, err
	}
	l := search{read: read, progress: progress, all: last - first + 1, least: window}
	for _, slack := range slacksOf(id) {
		begin, err := s.idAt(ctx, timeOf(id).Add(-slack), first, last)
		if err != nil {
			return nil, err
		}
		end, err := s.idAt(ctx, timeOf(id).Add(slack), begin, last)
		if err != nil {
			return nil, err
		}
		if found, err = l.through(begin, min(end, last)); err != nil || len(found) > 0 {
			return found, err
		}
	}
	l.least = 0
	return l.through(first, last)
}

// slacksOf returns the slacks to look with, narrow ones first; none if the id has no time.
func slacksOf(id outbox.ID) []time.Duration {
	if id[6]>>4 != 7 {
		return nil
	}
	return idSlacks
}

// timeOf returns the time in an id of version 7.
func timeOf(id outbox.ID) time.Time {
	var ms int64
	for _, b := range id[:6] {
		ms = ms<<8 | int64(b)
	}
	return time.UnixMilli(ms)
}

// search reads ever wider ranges of ids. It reads no id twice.
type search struct {
	read     func(after, upTo int64) ([]EventLife, error)
	progress Progress
	all      int64 // the number of all ids
	least    int64 // ids to read before progress is reported
	done     int64 // the number of ids read
	// The ids from low to high were read; none yet if high is less than low.
	low, high int64
}

// through reads the ids from first to last. This range includes all ids that were read before.
func (l *search) through(first, last int64) (found []EventLife, err error) {
	look := func(after, upTo int64) (enough bool, err error) {
		found, err = l.read(after, upTo)
		if l.done += upTo - after; l.done >= l.least {
			read(l.progress, l.done, l.all)
		}
		return len(found) > 0, err
	}
	if l.done == 0 {
		err = backwards(first, last, look)
	} else {
		first, last = min(first, l.low), max(last, l.high)
		if err = backwards(l.high+1, last, look); err == nil && len(found) == 0 {
			err = backwards(first, l.low-1, look)
		}
	}
	if first <= last {
		l.low, l.high = first, last
	}
	return found, err
}

// backwards calls look for the ids from last to first, window by window, until look has enough.
func backwards(first, last int64, look func(after, upTo int64) (enough bool, err error)) error {
	for upTo := last; upTo >= first; upTo -= window {
		if enough, err := look(max(upTo-window, first-1), upTo); err != nil || enough {
			return err
		}
	}
	return nil
}

const fromIDSQL = `SELECT e.id, ` + shownFrom + `e.created_at` + shownTo + ` FROM outbox.event e WHERE e.id >= $1 ORDER BY e.id LIMIT 1`

// idAt finds the first id from first to last whose event was written at the given time or later, by
// binary search: ids and times ascend together, except where transactions of producers overlap or a
// program has set created_at. Without such an event it returns last+1.
func (s *Store) idAt(ctx context.Context, at time.Time, first, last int64) (int64, error) {
	low, high := first, last+1
	for low < high {
		middle := low + (high-low)/2
		var id int64
		var written time.Time
		err := s.fromID(ctx, middle, &id, &written)
		switch {
		case err == nil && written.Before(at):
			low = id + 1
		case err == nil, errors.Is(err, pgx.ErrNoRows):
			high = middle
		default:
			return 0, fmt.Errorf("look for the events of a time: %w", err)
		}
	}
	return low, nil
}

func (s *Store) fromID(ctx context.Context, from int64, id *int64, written *time.Time) error {
	ctx, cancel := s.long(ctx)
	defer cancel()
	return s.readRow(ctx, []any{id, written}, fromIDSQL, from)
}

const byKeySQL = `
SELECT e.id, e.event_id::text, e.topic, e.key, e.lane, e.type, ` + shownFrom + `e.created_at` + shownTo + `, e.created_at FROM outbox.event e
WHERE e.topic = $1 AND e.key = $2 AND e.id > $3 AND e.id <= $4
ORDER BY e.id DESC LIMIT $5`

// ByKey returns the last events of a key, the newest first. It reads backwards until it has limit
// events.
func (s *Store) ByKey(ctx context.Context, topic, key string, limit int, progress Progress) (found []EventLife, err error) {
	if err := s.Known(ctx, topic); err != nil {
		return nil, err
	}
	first, last, err := s.bounds(ctx, span{})
	if err != nil {
		return nil, err
	}
	err = backwards(first, last, func(after, upTo int64) (enough bool, err error) {
		more, err := s.lives(ctx, byKeySQL, topic, key, after, upTo, limit-len(found))
		found = append(found, more...)
		read(progress, last-after, last-first+1)
		return len(found) == limit, err
	})
	return found, err
}
