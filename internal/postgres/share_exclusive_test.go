package postgres

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/testenv"
	"github.com/temporal-outbox/relay/outbox"
)

// oldClaimLanesSQL and oldBorrowSQL are those of version 0.1.0, which knows no shares. Its workers run
// beside newer ones during an update.
const (
	oldClaimLanesSQL = `
WITH free AS (
    SELECT l.topic, l.lane, wanted.claim_id, l.holder IS NOT NULL AND NOT l.retrying AS settling
    FROM unnest($1::text[], $2::smallint[], $3::uuid[]) AS wanted(topic, lane, claim_id)
    JOIN outbox.lane l USING (topic, lane)
    WHERE (l.leased_until IS NULL OR l.leased_until < now())
      AND (l.reserved_until IS NULL OR l.reserved_until < now())
    ORDER BY l.topic, l.lane
    FOR NO KEY UPDATE OF l SKIP LOCKED)
UPDATE outbox.lane l
SET claim_id = free.claim_id, holder = NULL, retrying = false, leased_until = now() + $4::interval,
    claimed_at = now(), claimed_by = $5,
    quiet_at = CASE WHEN free.settling THEN greatest(now() + $6::interval, l.quiet_at) ELSE l.quiet_at END
FROM free
WHERE l.topic = free.topic AND l.lane = free.lane
RETURNING l.topic, l.lane, free.settling`
	oldBorrowSQL = `
WITH free AS (
    SELECT topic, lane FROM outbox.lane
    WHERE topic = $1 AND lane <> ALL ($2::smallint[])
      AND (leased_until IS NULL OR leased_until < now()) AND holder IS NULL AND (quiet_at IS NULL OR quiet_at < now())
      AND (reserved_until IS NULL OR reserved_until < now())
    ORDER BY topic, lane
    FOR NO KEY UPDATE SKIP LOCKED)
UPDATE outbox.lane l
SET claim_id = $3, holder = $4, retrying = false, leased_until = now() + $5::interval, claimed_by = NULL
FROM free
WHERE l.topic = free.topic AND l.lane = free.lane
RETURNING l.lane, l.low_id`
)

// Short leases, so that many end while the test runs. A holder uses its lanes until margin before.
const (
	shortShareLease = 600 * time.Millisecond
	shortClaimLease = 400 * time.Millisecond
	shortLease      = 500 * time.Millisecond
	shortMargin     = 50 * time.Millisecond
)

// oracle knows who believes to have each lane, and until when. Each believes it after the database has
// answered, and no longer from before the request in which it gives the lane away.
type oracle struct {
	mu     sync.Mutex
	has    map[laneKey]belief
	faults []string
	// How often each kind of holder began to have a lane. Once each has often enough, enough is called.
	began  map[string]int
	enough func()
}

const often = 30

// hasSeen reports whether all kinds of holders have had lanes often.
func (o *oracle) hasSeen() bool {
	for _, kind := range []string{"carrier", "claim", "old claim", "operation"} {
		if o.began[kind] < often {
			return false
		}
	}
	return true
}

type belief struct {
	kind, who string
	until     time.Time
}

func (o *oracle) believe(kind, who string, until time.Time, lanes ...laneKey) {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := time.Now()
	for _, l := range lanes {
		other, taken := o.has[l]
		switch {
		case taken && other.who == who:
		case now.After(until):
			continue
		case taken && now.Before(other.until):
			o.faults = append(o.faults, fmt.Sprintf("%s %s begins to have %v, and %s %s has it", kind, who, l, other.kind, other.who))
		default:
			if o.began[kind]++; o.hasSeen() {
				o.enough()
			}
		}
		o.has[l] = belief{kind, who, until}
	}
}

func (o *oracle) forgo(who string, lanes ...laneKey) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, l := range lanes {
		if o.has[l].who == who {
			delete(o.has, l)
		}
	}
}

func (o *oracle) fault(format string, args ...any) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.faults = append(o.faults, fmt.Sprintf(format, args...))
}

// arena is where actors compete for the lanes of some topics. Few of both, so that they meet.
type arena struct {
	testOutbox
	oracle
	topics []string
	lanes  []int16
	stop   context.Context
}

// try fails the test on an error, above all on a deadlock.
func (a *arena) try(what string, err error) bool {
	if err != nil && a.stop.Err() == nil && !errors.Is(err, relay.ErrClaimLost) {
		a.fault("%s: %v", what, err)
	}
	return err == nil
}

func (a *arena) randomLanes(r *rand.Rand) (some []laneKey) {
	for _, topic := range a.topics {
		for _, n := range a.lanes {
			if r.IntN(3) > 0 {
				some = append(some, laneKey{topic, n})
			}
		}
	}
	r.Shuffle(len(some), func(i, j int) { some[i], some[j] = some[j], some[i] })
	return some
}

// pause is the interleaving, which is the subject here.
func pause(r *rand.Rand, most time.Duration) { time.Sleep(time.Duration(r.Int64N(int64(most)))) }

// inTx runs statements that commit a moment later: the race that a fence is for.
func (a *arena) inTx(r *rand.Rand, most time.Duration, run func(tx pgx.Tx) error) error {
	return pgx.BeginFunc(a.t.Context(), a.db, func(tx pgx.Tx) error {
		if err := run(tx); err != nil {
			return err
		}
		if r.IntN(2) == 0 {
			pause(r, most)
		}
		return nil
	})
}

// carry is a worker that holds shares. It has in hand whatever it believes to have.
func (a *arena) carry(r *rand.Rand) {
	c := &carrying{arena: a, r: r, id: outbox.NewID().String()}
	defer func() { c.forgetAll() }()
	for a.stop.Err() == nil {
		switch r.IntN(12) {
		case 0, 1, 2:
			c.take()
		case 3, 4, 5, 6:
			c.attend()
		case 7:
			c.setApart()
		case 8, 9:
			c.rejoin()
		case 10:
			c.giveBack()
		case 11:
			if r.IntN(4) == 0 {
				pause(r, 2*shortShareLease) // it stands still
			}
		}
		pause(r, 10*time.Millisecond)
	}
}

type carrying struct {
	*arena
	r         *rand.Rand
	id        string
	until     map[int16]time.Time // of each share that it holds
	exception map[laneKey]bool    // of these
}

// mine are the lanes of a share that it believes to have.
func (c *carrying) mine(n int16) (lanes []laneKey) {
	for _, topic := range c.topics {
		if l := (laneKey{topic, n}); !c.exception[l] {
			lanes = append(lanes, l)
		}
	}
	return lanes
}

// learn is given all exceptions of the shares that it holds since a moment.
func (c *carrying) learn(shares []int16, until time.Time, exceptions []relay.LaneException, isNew bool) {
	now := make(map[laneKey]bool)
	for _, e := range exceptions {
		if e.Apart || e.Claimed {
			now[laneKey{e.Topic, e.Lane}] = true
		}
	}
	for _, n := range shares {
		for _, topic := range c.topics {
			l := laneKey{topic, n}
			if now[l] && !isNew && !c.exception[l] {
				c.fault("carrier %s has %v, and the database says that it is apart or claimed", c.id, l)
			}
			if delete(c.exception, l); now[l] {
				c.exception[l] = true
			}
		}
		c.until[n] = until
		c.believe("carrier", c.id, until, c.mine(n)...)
	}
}

func (c *carrying) forget(n int16) {
	c.forgo(c.id, c.mine(n)...)
	delete(c.until, n)
	for _, topic := range c.topics {
		delete(c.exception, laneKey{topic, n})
	}
}

func (c *carrying) forgetAll() {
	for n := range c.until {
		c.forget(n)
	}
}

func (c *carrying) take() {
	if c.until == nil {
		c.until, c.exception = make(map[int16]time.Time), make(map[laneKey]bool)
	}
	for n, until := range c.until {
		if time.Now().After(until.Add(shortMargin)) {
			c.forget(n)
		}
	}
	var wanted []int16
	for _, n := range c.lanes {
		if _, held := c.until[n]; !held && c.r.IntN(2) == 0 {
			wanted = append(wanted, n)
		}
	}
	until := time.Now().Add(shortShareLease - shortMargin)
	taken, err := c.TakeShares(c.t.Context(), c.id, wanted)
	if !c.try("take", err) {
		return
	}
	got := make([]int16, len(taken))
	for i, share := range taken {
		got[i] = share.Lane
	}
	exceptions, err := c.Exceptions(c.t.Context(), got)
	if c.try("exceptions", err) {
		c.learn(got, until, exceptions, true)
	}
}

func (c *carrying) attend() {
	until := time.Now().Add(shortShareLease - shortMargin)
	seen, err := c.Attend(c.t.Context(), relay.Attendance{Worker: c.id, Name: "w", Seated: true, Lanes: slices.Collect(maps.Keys(c.until))})
	if !c.try("attend", err) {
		return
	}
	for n := range c.until {
		if !slices.Contains(seen.Mine, n) {
			c.forget(n)
		}
	}
	c.learn(seen.Mine, until, seen.Exceptions, false)
}

// some are lanes of its shares.
func (c *carrying) some(exceptions bool) (lanes []laneKey) {
	for _, l := range c.randomLanes(c.r) {
		if _, held := c.until[l.lane]; held && c.exception[l] == exceptions && len(lanes) < 3 {
			lanes = append(lanes, l)
		}
	}
	return lanes
}

func topicLanes(lanes []laneKey) (all []relay.TopicLane) {
	for _, l := range lanes {
		all = append(all, relay.TopicLane{Topic: l.topic, Lane: l.lane})
	}
	return all
}

func (c *carrying) setApart() {
	lanes := c.some(false)
	if len(lanes) == 0 {
		return
	}
	c.forgo(c.id, lanes...)
	topics, numbers := topicLaneColumns(topicLanes(lanes))
	var done []relay.TopicLane
	err := c.inTx(c.r, 2*shortShareLease, func(tx pgx.Tx) error {
		rows, err := tx.Query(c.t.Context(), setApartSQL, c.id, topics, numbers, make([]int64, len(lanes)), "x")
		if err == nil {
			done, err = pgx.CollectRows(rows, pgx.RowToStructByPos[relay.TopicLane])
		}
		return err
	})
	if !c.try("set apart", err) {
		return
	}
	for _, l := range lanes {
		if slices.Contains(done, relay.TopicLane{Topic: l.topic, Lane: l.lane}) {
			c.exception[l] = true
		} else {
			c.believe("carrier", c.id, c.until[l.lane], l)
		}
	}
}

func (c *carrying) rejoin() {
	lanes := c.some(true)
	if len(lanes) == 0 {
		return
	}
	joined, err := c.Rejoin(c.t.Context(), c.id, topicLanes(lanes))
	if !c.try("rejoin", err) {
		return
	}
	for _, e := range joined {
		l := laneKey{e.Topic, e.Lane}
		delete(c.exception, l)
		c.believe("carrier", c.id, c.until[l.lane], l)
	}
}

func (c *carrying) giveBack() {
	var lanes []int16
	for n := range c.until {
		if c.r.IntN(3) == 0 {
			lanes = append(lanes, n)
		}
	}
	for _, n := range lanes {
		c.forget(n)
	}
	c.try("give back", c.GiveBackShares(c.t.Context(), c.id, lanes))
}

// claimAndPublish is a worker that claims lanes of one topic, of this version or of the one before.
func (a *arena) claimAndPublish(r *rand.Rand, isOld bool) {
	kind := "claim"
	if isOld {
		kind = "old claim"
	}
	for a.stop.Err() == nil {
		pause(r, 150*time.Millisecond)
		var claims []relay.Batch
		until := time.Now().Add(shortClaimLease - shortMargin)
		if isOld {
			claims = a.oldClaim(r)
		} else if batches, err := a.lease(a.t.Context(), "new", a.packs(r)); a.try("claim", err) {
			claims = batches
		}
		for _, b := range claims {
			a.believe(kind, b.ClaimID, until, keysOf(b.Topic, b.Lanes)...)
		}
		for _, b := range claims {
			a.publish(r, kind, b, isOld)
		}
	}
}

func keysOf(topic string, lanes []int16) (keys []laneKey) {
	for _, n := range lanes {
		keys = append(keys, laneKey{topic, n})
	}
	return keys
}

func (a *arena) packs(r *rand.Rand) (packs [][]lane) {
	of := make(map[string][]lane)
	for _, l := range a.randomLanes(r) {
		of[l.topic] = append(of[l.topic], lane{topic: l.topic, lane: l.lane})
	}
	return slices.Collect(maps.Values(of))
}

func (a *arena) oldClaim(r *rand.Rand) (batches []relay.Batch) {
	var all []lane
	var claims []string
	claimOf := make(map[string]string)
	for _, pack := range a.packs(r) {
		id := outbox.NewID().String()
		claimOf[pack[0].topic] = id
		for _, l := range pack {
			all, claims = append(all, l), append(claims, id)
		}
	}
	topics, numbers := columns(all)
	got := make(map[string][]int16)
	err := a.inTx(r, 10*time.Millisecond, func(tx pgx.Tx) error {
		rows, err := tx.Query(a.t.Context(), oldClaimLanesSQL, topics, numbers, claims, shortClaimLease, "old", time.Duration(0))
		if err != nil {
			return err
		}
		var k laneKey
		var settling bool
		_, err = pgx.ForEachRow(rows, []any{&k.topic, &k.lane, &settling}, func() error {
			got[k.topic] = append(got[k.topic], k.lane)
			return nil
		})
		return err
	})
	if !a.try("old claim", err) {
		return nil
	}
	for topic, lanes := range got {
		batches = append(batches, relay.Batch{Topic: topic, Lanes: lanes, ClaimID: claimOf[topic]})
	}
	return batches
}

func (a *arena) publish(r *rand.Rand, kind string, b relay.Batch, isOld bool) {
	ctx := a.t.Context()
	all := keysOf(b.Topic, b.Lanes)
	defer func() { a.forgo(b.ClaimID, all...) }()
	if r.IntN(5) == 0 { // the worker died before it began
		pause(r, shortClaimLease)
		return
	}
	until := time.Now().Add(shortLease - shortMargin)
	l, err := a.TakeOver(ctx, b)
	if !a.try("take over", err) {
		return
	}
	read := relay.Read{Next: make(map[int16]int64)}
	for _, n := range b.Lanes {
		if _, got := l.LowID[n]; got {
			read.Next[n] = 0
			a.believe(kind, b.ClaimID, until, laneKey{b.Topic, n})
		} else {
			a.forgo(b.ClaimID, laneKey{b.Topic, n})
		}
	}
	if r.IntN(2) == 0 {
		until := time.Now().Add(shortLease - shortMargin)
		for _, n := range a.borrow(r, b, l, isOld) {
			read.Next[n] = 0
			all = append(all, laneKey{b.Topic, n})
			a.believe(kind, b.ClaimID, until, laneKey{b.Topic, n})
		}
	}
	pause(r, 50*time.Millisecond)
	switch r.IntN(4) {
	case 0: // the worker died
		pause(r, shortLease)
	case 1:
		a.forgo(b.ClaimID, all...)
		a.try("release the claim", a.ReleaseClaim(ctx, b))
	default:
		a.forgo(b.ClaimID, all...)
		a.try("release", a.Release(ctx, l, read))
	}
}

func (a *arena) borrow(r *rand.Rand, b relay.Batch, l relay.Lease, isOld bool) (lanes []int16) {
	if !isOld {
		got, err := a.Borrow(a.t.Context(), b, l)
		a.try("borrow", err)
		return slices.Collect(maps.Keys(got))
	}
	err := a.inTx(r, 10*time.Millisecond, func(tx pgx.Tx) error {
		rows, err := tx.Query(a.t.Context(), oldBorrowSQL, b.Topic, b.Lanes, b.ClaimID, l.Holder, shortLease)
		if err == nil {
			lanes, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (n int16, err error) { return n, row.Scan(&n, nil) })
		}
		return err
	})
	a.try("old borrow", err)
	return lanes
}

// operate moves events in lanes that are idle, for a while.
func (a *arena) operateOften(r *rand.Rand) {
	ctx := a.t.Context()
	for a.stop.Err() == nil {
		pause(r, 100*time.Millisecond)
		topic, who := a.topics[r.IntN(len(a.topics))], outbox.NewID().String()
		var wanted []int16
		for _, n := range a.lanes {
			if r.IntN(2) == 0 {
				wanted = append(wanted, n)
			}
		}
		if r.IntN(3) == 0 {
			a.try("reserve", a.Reserve(ctx, topic, wanted, 50*time.Millisecond))
		}
		var keys []laneKey
		err := pgx.BeginFunc(ctx, a.db, func(tx pgx.Tx) error {
			rows, err := tx.Query(ctx, idleSQL, topic, wanted)
			if err != nil {
				return err
			}
			lanes, err := pgx.CollectRows(rows, pgx.RowTo[int16])
			if err != nil || len(lanes) == 0 {
				return err
			}
			keys = keysOf(topic, lanes)
			a.believe("operation", who, time.Now().Add(time.Hour), keys...)
			pause(r, 30*time.Millisecond)
			_, err = tx.Exec(ctx, lowerSQL, topic, lanes, make([]int64, len(lanes)))
			a.forgo(who, keys...)
			return err
		})
		a.forgo(who, keys...)
		a.try("move", err)
	}
}

// Two holders of a lane publish an event twice, and can publish the events of a key in the wrong order.
func TestShares_ALaneHasOneHolderWhateverRunsAtOnce(t *testing.T) {
	url := testenv.DatabaseURL(t)
	o := openBy(t, url, url)
	o.cfg.ShareLease, o.cfg.ClaimLease, o.cfg.Lease = shortShareLease, shortClaimLease, shortLease
	for seed := range uint64(2) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			stop, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			a := &arena{
				testOutbox: o, oracle: oracle{has: make(map[laneKey]belief), began: make(map[string]int), enough: cancel},
				topics: []string{"audit", "mail", "orders"}, lanes: []int16{0, 1, 2, 3}, stop: stop,
			}
			a.t = t
			require.NoError(t, o.EnsureLanes(t.Context(), a.topics))
			var actors sync.WaitGroup
			for n, act := range []func(*rand.Rand){
				a.carry, a.carry, a.carry,
				func(r *rand.Rand) { a.claimAndPublish(r, false) }, func(r *rand.Rand) { a.claimAndPublish(r, true) },
				func(r *rand.Rand) { a.claimAndPublish(r, true) }, a.operateOften,
			} {
				actors.Go(func() { act(rand.New(rand.NewPCG(seed, uint64(n)))) })
			}
			actors.Wait()
			t.Logf("lanes were had so often: %v", a.began)
			require.Empty(t, a.faults)
			require.True(t, a.hasSeen(), "this took too long to say anything")
		})
	}
	require.Zero(t, query[int](o, `SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()`))
}
