package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/temporal-outbox/relay/outbox"
)

// Progress learns which part, from 0 to 1, of what may have to be read has been read.
// It may be nil.
type Progress func(part float64)

func (p Progress) read(events, all int64) {
	if p != nil {
		p(min(1, float64(events)/float64(max(1, all))))
	}
}

// An event's time is near the one that its id of version 7 begins with, unless clocks
// differ or the id was made long before the event was written.
var idSlacks = []time.Duration{time.Minute, 24 * time.Hour}

const byEventIDSQL = `
SELECT e.id, e.event_id::text, e.topic, e.key, e.lane, e.type, e.created_at FROM outbox.event e
WHERE e.event_id = $1 AND e.id > $2 AND e.id <= $3
ORDER BY e.id LIMIT 20`

// ByEventID returns the events with an id: usually one, none if there is none or it is
// older than retention. One of version 7 is looked for around the time that it begins
// with, at first; any other, or one that is not there, takes a look at all events.
func (s *Store) ByEventID(ctx context.Context, id outbox.ID, progress Progress) (found []EventLife, err error) {
	first, last, err := s.bounds(ctx, span{})
	if err != nil {
		return nil, err
	}
	if id[6]>>4 == 7 {
		var ms int64
		for _, b := range id[:6] {
			ms = ms<<8 | int64(b)
		}
		for _, slack := range idSlacks {
			from, to := time.UnixMilli(ms).Add(-slack), time.UnixMilli(ms).Add(slack)
			if found, err = s.byEventIDBetween(ctx, id, from, to, first, last); err != nil || len(found) > 0 {
				return found, err
			}
		}
	}
	err = backwards(first, last, progress, func(after, upTo int64) (enough bool, err error) {
		found, err = s.lives(ctx, byEventIDSQL, id, after, upTo)
		return len(found) > 0, err
	})
	return found, err
}

// backwards looks at the ids from last to first, piece by piece, until it has enough.
func backwards(first, last int64, progress Progress, look func(after, upTo int64) (enough bool, err error)) error {
	for upTo := last; upTo >= first; upTo -= window {
		enough, err := look(max(upTo-window, first-1), upTo)
		progress.read(last-upTo+window, last-first+1)
		if err != nil || enough {
			return err
		}
	}
	return nil
}

func (s *Store) byEventIDBetween(ctx context.Context, id outbox.ID, from, to time.Time, first, last int64) ([]EventLife, error) {
	begin, err := s.idAt(ctx, from, first, last)
	if err != nil {
		return nil, err
	}
	end, err := s.idAt(ctx, to, begin, last)
	if err != nil {
		return nil, err
	}
	return s.lives(ctx, byEventIDSQL, id, begin-1, end)
}

const fromIDSQL = `SELECT e.id, e.created_at FROM outbox.event e WHERE e.id >= $1 ORDER BY e.id LIMIT 1`

// idAt finds the first of the ids from first to last whose event was written at a time
// or later, by halving: ids and times ascend together, but for a moment where producers
// meet, or where somebody set created_at. Without such an event it is past the last one.
func (s *Store) idAt(ctx context.Context, at time.Time, first, last int64) (int64, error) {
	low, high := first, last+1
	for low < high {
		middle := low + (high-low)/2
		var id int64
		var written time.Time
		err := s.pool.QueryRow(ctx, fromIDSQL, middle).Scan(&id, &written)
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

const byKeySQL = `
SELECT e.id, e.event_id::text, e.topic, e.key, e.lane, e.type, e.created_at FROM outbox.event e
WHERE e.topic = $1 AND e.key = $2 AND e.id > $3 AND e.id <= $4
ORDER BY e.id DESC LIMIT $5`

// ByKey returns the last events of a key, the newest first. It reads backwards until it
// has as many as limit says.
func (s *Store) ByKey(ctx context.Context, topic, key string, limit int, progress Progress) (found []EventLife, err error) {
	if err := known(ctx, s.pool, topic); err != nil {
		return nil, err
	}
	first, last, err := s.bounds(ctx, span{})
	if err != nil {
		return nil, err
	}
	err = backwards(first, last, progress, func(after, upTo int64) (enough bool, err error) {
		more, err := s.lives(ctx, byKeySQL, topic, key, after, upTo, limit-len(found))
		found = append(found, more...)
		return len(found) == limit, err
	})
	return found, err
}
