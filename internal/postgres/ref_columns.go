package postgres

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/temporal-outbox/relay/internal/relay"
)

// microseconds is a time as in relay.Ref. It is exact, because PostgreSQL stores microseconds.
func microseconds(t pgtype.Timestamptz) int64 {
	switch t.InfinityModifier {
	case pgtype.Infinity:
		return math.MaxInt64
	case pgtype.NegativeInfinity:
		return math.MinInt64
	default:
		return t.Time.UnixMicro()
	}
}

// timestamp is the reverse of microseconds.
func timestamp(at int64) pgtype.Timestamptz {
	t := pgtype.Timestamptz{Valid: true}
	switch at {
	case math.MaxInt64:
		t.InfinityModifier = pgtype.Infinity
	case math.MinInt64:
		t.InfinityModifier = pgtype.NegativeInfinity
	default:
		t.Time = time.UnixMicro(at)
	}
	return t
}

// latest is the time at which a bound ends: infinity, if it has none.
func latest(at time.Time) pgtype.Timestamptz {
	if at.IsZero() {
		return pgtype.Timestamptz{Valid: true, InfinityModifier: pgtype.Infinity}
	}
	return pgtype.Timestamptz{Valid: true, Time: at}
}

// earliest is the time at which a bound begins: minus infinity, if it has none.
func earliest(at time.Time) pgtype.Timestamptz {
	if at.IsZero() {
		return pgtype.Timestamptz{Valid: true, InfinityModifier: pgtype.NegativeInfinity}
	}
	return pgtype.Timestamptz{Valid: true, Time: at}
}

// columnsOfRefs are refs as arrays for unnest.
type columnsOfRefs struct {
	lanes        []int16
	ids, replays []int64
	created      []pgtype.Timestamptz
}

func refColumns(refs []relay.Ref) (c columnsOfRefs) {
	c.lanes, c.ids = make([]int16, len(refs)), make([]int64, len(refs))
	c.replays, c.created = make([]int64, len(refs)), make([]pgtype.Timestamptz, len(refs))
	for i, r := range refs {
		c.lanes[i], c.ids[i], c.replays[i], c.created[i] = r.Lane, r.ID, r.Replay, timestamp(r.At)
	}
	return c
}

func compareRefs(a, b relay.Ref) int {
	return cmp.Or(cmp.Compare(a.Lane, b.Lane), cmp.Compare(a.ID, b.ID), cmp.Compare(a.Replay, b.Replay))
}

func sortedRefs(refs []relay.Ref) []relay.Ref {
	return slices.SortedFunc(slices.Values(refs), compareRefs)
}
