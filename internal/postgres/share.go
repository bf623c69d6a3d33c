package postgres

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/timing"
)

// A lane belongs to the worker that holds its live share, unless the lane is apart or has a claim. Three
// rules keep it that way, also under concurrency:
//
//   - No statement waits for a share that another transaction has locked. So a transaction that has
//     locked lanes may ask for a share, and there are no deadlocks.
//   - A claim, or the move of an operation, that takes a lane which is not apart locks the share against
//     takers until it commits: see outbox.share_is_free. The trigger on outbox.lane does that for the
//     claims of every version. A lease that has ended is ended for good there.
//   - Only the holder sets lanes of a live share apart, and takes them back. It locks the share against
//     takers meanwhile, but not against its own renewals.

// liveShares lists, in a statement, the lane numbers whose share a worker holds.
const liveShares = `SELECT s.lane FROM outbox.share s WHERE s.worker IS NOT NULL AND s.leased_until >= now()`

// mayClaim is true, in a statement, of lanes l that do not belong to a worker by their share.
const mayClaim = `(l.lane <> ALL (ARRAY(` + liveShares + `)) OR l.apart OR l.claim_id IS NOT NULL)`

// keptByShare is true, in a statement, of lanes l that belonged to a worker which has not given their share
// back, if no claim had the lane since.
const keptByShare = `(l.lane = ANY (ARRAY(SELECT s.lane FROM outbox.share s WHERE s.worker IS NOT NULL))
          AND NOT l.apart AND l.claim_id IS NULL AND EXISTS (
              SELECT FROM outbox.share s
              WHERE s.lane = l.lane AND s.renewed_at > coalesce(l.claimed_at, '-infinity')))`

// workerIsSeen is true, in a statement, of workers that were seen lately. $%[1]s is timing.WorkerGone, and
// $%[2]s is timing.ClockMargin: a time that is far ahead was written before the clock was set back.
const workerIsSeen = `seen_at >= now() - $%[1]d::interval AND seen_at <= now() + $%[2]d::interval`

// isException is true, in a statement, of lanes that may not belong to their share. (A lane that has a
// holder, but no claim, was not given back.)
const isException = `(apart OR claim_id IS NOT NULL OR holder IS NOT NULL OR quiet_at >= now() OR reserved_until >= now())`

// exceptionColumns are the columns of a relay.LaneException, of the table l and the topic t of stoppedTopics.
const exceptionColumns = `l.topic, l.lane, l.apart,
       l.claim_id IS NOT NULL OR l.holder IS NOT NULL OR coalesce(l.quiet_at >= now(), false) AS claimed,
       coalesce(l.reserved_until >= now(), false) AS reserved, ` + mayRejoin + ` AS free, l.low_id`

// mayRejoin is true, in a statement, of lanes l that nothing keeps from their share. A claim whose lease
// has ended keeps it no more than it would keep another claim, except if its batch waits for an attempt.
const mayRejoin = `((l.apart OR l.holder IS NOT NULL OR l.claim_id IS NOT NULL)
       AND (l.claim_id IS NULL OR l.leased_until < now() AND NOT l.retrying)
       AND (l.reserved_until IS NULL OR l.reserved_until < now()) AND (l.quiet_at IS NULL OR l.quiet_at < now())
       AND l.topic NOT IN (` + stoppedTopics + `))`

// stoppedTopics lists, in a statement, the topics that an operator has paused or that a recovery holds.
const stoppedTopics = `SELECT t.topic FROM outbox.topic t WHERE t.paused_at IS NOT NULL OR t.recovery_paused_until >= now()`

// attendSQL is all that a worker writes and reads twice a second. It writes the worker's row and those of its
// shares. Of outbox.lane it reads two short indexes, and the lanes of shares that were taken a moment ago.
//
// It looks at the end of the lease again once it has locked the share: until then a claim may have found
// that the lease had ended. A claim under way holds the lock, and the share counts as lost.
//
// A share stays mixed until no lane in it has a claim from before. A claim that goes on for long, such as
// that of a recovery, would keep it mixed, and all lanes would be read each time. So the statement sets its
// lanes apart: the index of these has few entries. All that is read is of one snapshot, from before the locks.
// It is not out of date: a claim that came in between would have ended the lease.
var attendSQL = `
WITH me AS (
    INSERT INTO outbox.worker AS w (id, name, seen_at, seated) VALUES ($1::uuid, $2, now(), $3)
    ON CONFLICT (id) DO UPDATE
    SET name = excluded.name, seen_at = excluded.seen_at, seated = excluded.seated,
        offered_at = CASE WHEN excluded.seated OR NOT w.seated THEN w.offered_at END),
held AS MATERIALIZED (
    SELECT lane, leased_until, mixed FROM outbox.share
    WHERE worker = $1::uuid AND lane = ANY ($4::smallint[]) AND leased_until >= clock_timestamp()
    ORDER BY lane FOR NO KEY UPDATE SKIP LOCKED),
mine AS MATERIALIZED (SELECT lane, mixed FROM held WHERE leased_until >= clock_timestamp()),
exception AS MATERIALIZED (
    SELECT topic, lane FROM outbox.lane WHERE apart AND lane IN (SELECT lane FROM mine)
    UNION
    SELECT topic, lane FROM outbox.lane WHERE reserved_until IS NOT NULL AND reserved_until >= now() AND lane IN (SELECT lane FROM mine)
    UNION
    SELECT topic, lane FROM outbox.lane
    WHERE (SELECT count(*) FROM mine WHERE mixed) > 0 AND lane IN (SELECT lane FROM mine WHERE mixed) AND ` + isException + `),
described AS MATERIALIZED (SELECT ` + exceptionColumns + ` FROM exception JOIN outbox.lane l USING (topic, lane)),
lasting AS (
    SELECT l.topic, l.lane FROM described d JOIN outbox.lane l USING (topic, lane)
    WHERE NOT d.apart AND d.claimed
      AND NOT l.apart AND l.claim_id IS NOT NULL AND l.claimed_at < now() - $8::interval
    ORDER BY topic, lane LIMIT ` + fmt.Sprint(lastingMost) + `
    FOR NO KEY UPDATE OF l SKIP LOCKED),
set_apart AS (
    UPDATE outbox.lane l SET apart = true, apart_cause = 'a batch has had the lane since before its share was taken'
    FROM lasting WHERE l.topic = lasting.topic AND l.lane = lasting.lane),
renewed AS (
    UPDATE outbox.share s
    SET leased_until = now() + $5::interval, renewed_at = now(),
        mixed = s.mixed AND EXISTS (SELECT FROM described d WHERE d.lane = s.lane AND NOT d.apart AND d.claimed)
    FROM mine WHERE s.lane = mine.lane
    RETURNING s.lane)
SELECT 'mine', '', lane, false, false, false, false, 0::bigint FROM renewed
UNION ALL SELECT 'holder', worker::text, lane, false, false, false, false, 0 FROM outbox.share
          WHERE worker <> $1::uuid AND leased_until >= now()
UNION ALL SELECT 'worker', id::text, 0, seated, false, false, false, 0 FROM outbox.worker
          WHERE id <> $1::uuid AND ` + fmt.Sprintf(workerIsSeen, 6, 7) + `
UNION ALL SELECT 'worker', $1::uuid::text, 0, $3, false, false, false, 0
UNION ALL SELECT 'exception', topic, lane, apart, claimed, reserved, free, low_id FROM described
UNION ALL SELECT 'stopped', topic, 0, false, false, false, false, 0 FROM (` + stoppedTopics + `) stopped
UNION ALL SELECT 'filtered', '', 0, false, false, false, false, 0 WHERE ` + filteredShares + `
ORDER BY 1, 2, 3`

// lastingMost is how many lanes one attendance sets apart at most, so that leases are renewed in time.
const lastingMost = 200

// Attend records a sign of life of a worker, and extends those of its shares whose lease has not ended,
// to a full lease from now. It is one statement. An answer does not know of lanes that SetApart and Rejoin
// change while Attend runs: call the three one after the other.
func (s *Store) Attend(ctx context.Context, a relay.Attendance) (relay.Shares, error) {
	ctx, cancel := s.limit(ctx)
	defer cancel()
	shares, err := s.attend(ctx, a)
	if unconvertible(err) {
		if err = s.setAside(ctx, a.Name); err == nil {
			shares, err = s.attend(ctx, a)
		}
	}
	if err != nil {
		return relay.Shares{}, fmt.Errorf("renew shares: %w", err)
	}
	return shares, nil
}

func (s *Store) attend(ctx context.Context, a relay.Attendance) (shares relay.Shares, err error) {
	err = s.visibly(ctx, func() (isFiltered bool, err error) {
		shares, isFiltered, err = s.attendOnce(ctx, a)
		return isFiltered, err
	})
	return shares, err
}

func (s *Store) attendOnce(ctx context.Context, a relay.Attendance) (shares relay.Shares, isFiltered bool, err error) {
	rows, err := s.pool.Query(ctx, attendSQL, a.Worker, s.text(a.Name), a.Seated, append([]int16{}, a.Lanes...),
		s.cfg.ShareLease, timing.WorkerGone, timing.ClockMargin, timing.BatchSlow)
	if err != nil {
		return shares, false, err
	}
	var kind, name string
	var number int16
	var first, claimed, reserved, free bool
	var low int64
	_, err = pgx.ForEachRow(rows, []any{&kind, &name, &number, &first, &claimed, &reserved, &free, &low}, func() error {
		switch kind {
		case "mine":
			shares.Mine = append(shares.Mine, number)
			shares.Holders[number] = a.Worker
		case "holder":
			shares.Holders[number] = name
		case "worker":
			shares.Workers = append(shares.Workers, relay.Worker{ID: name, Seated: first})
		case "exception":
			shares.Exceptions = append(shares.Exceptions, relay.LaneException{
				TopicLane: relay.TopicLane{Topic: name, Lane: number}, Apart: first, Claimed: claimed, Reserved: reserved, Free: free, LowID: low,
			})
		case "stopped":
			shares.Stopped = append(shares.Stopped, name)
		case "filtered":
			isFiltered = true
		}
		return nil
	})
	return shares, isFiltered, err
}

// takeSharesSQL takes shares that are not live. It locks them against everything that needs a share to
// be free, or its own, and takes none that something has locked.
const takeSharesSQL = `
WITH free AS (
    SELECT lane, worker IS NOT NULL AND worker <> $1::uuid AS settling FROM outbox.share
    WHERE lane = ANY ($2::smallint[]) AND (worker IS NULL OR leased_until < now())
    ORDER BY lane FOR UPDATE SKIP LOCKED)
UPDATE outbox.share s
SET worker = $1::uuid, leased_until = now() + $3::interval, renewed_at = now(), mixed = true
FROM free WHERE s.lane = free.lane
RETURNING s.lane, free.settling`

// TakeShares makes a worker the holder of those of the shares that are not live, and returns these in
// ascending order. A share that a claim is just looking at stays as it is: try again. The caller reads
// Exceptions before it loads anything.
func (s *Store) TakeShares(ctx context.Context, worker string, lanes []int16) ([]relay.TakenShare, error) {
	ctx, cancel := s.limit(ctx)
	defer cancel()
	taken, err := returned(ctx, s, pgx.RowToStructByPos[relay.TakenShare], takeSharesSQL, worker, lanes, s.cfg.ShareLease)
	if err != nil {
		return nil, fmt.Errorf("take shares: %w", err)
	}
	slices.SortFunc(taken, func(a, b relay.TakenShare) int { return cmp.Compare(a.Lane, b.Lane) })
	return taken, nil
}

// giveBackSharesSQL gives shares back, all of the worker's if $2 is null. If there is another worker, claims
// leave the lanes to it for a moment: see waitingLanesSQL.
var giveBackSharesSQL = `
WITH mine AS (
    SELECT lane FROM outbox.share
    WHERE worker = $1::uuid AND ($2::smallint[] IS NULL OR lane = ANY ($2::smallint[]))
    ORDER BY lane FOR NO KEY UPDATE SKIP LOCKED)
UPDATE outbox.share s
SET worker = NULL,
    leased_until = CASE WHEN EXISTS (SELECT FROM outbox.worker
                                     WHERE seated AND id <> $1::uuid AND ` + fmt.Sprintf(workerIsSeen, 3, 4) + `) THEN now() END
FROM mine WHERE s.lane = mine.lane`

// GiveBackShares gives shares back that a worker holds, or held last. Everything that it had in hand must
// be answered and settled: the next holder does not wait.
func (s *Store) GiveBackShares(ctx context.Context, worker string, lanes []int16) error {
	ctx, cancel := s.limit(ctx)
	defer cancel()
	if _, err := s.pool.Exec(ctx, giveBackSharesSQL, worker, append([]int16{}, lanes...), timing.WorkerGone, timing.ClockMargin); err != nil {
		return fmt.Errorf("give shares back: %w", err)
	}
	return nil
}

const forgetWorkerSQL = `DELETE FROM outbox.worker WHERE id = $1::uuid`

// Leave gives all shares of a worker back, as GiveBackShares does, and forgets the worker.
func (s *Store) Leave(ctx context.Context, worker string) error {
	ctx, cancel := s.limit(ctx)
	defer cancel()
	if _, err := s.pool.Exec(ctx, giveBackSharesSQL, worker, nil, timing.WorkerGone, timing.ClockMargin); err != nil {
		return fmt.Errorf("give all shares back: %w", err)
	}
	if _, err := s.pool.Exec(ctx, forgetWorkerSQL, worker); err != nil {
		return fmt.Errorf("forget a worker: %w", err)
	}
	return nil
}

// forgetWorkersSQL deletes workers that have not been seen for a day. People may ask for them until then.
const forgetWorkersSQL = `
DELETE FROM outbox.worker WHERE id IN (
    SELECT id FROM outbox.worker WHERE seen_at < now() - interval '1 day' FOR UPDATE SKIP LOCKED)`

func (s *Store) forgetWorkers(ctx context.Context) error {
	if _, err := s.pool.Exec(ctx, forgetWorkersSQL); err != nil {
		return fmt.Errorf("forget workers that are gone: %w", err)
	}
	return nil
}

// exceptionsSQL reads all lanes of some shares. A row without a topic says that rows may be hidden.
const exceptionsSQL = `
SELECT ` + exceptionColumns + `
FROM outbox.lane l
WHERE lane = ANY ($1::smallint[]) AND ` + isException + `
UNION ALL SELECT '', 0, false, false, false, false, 0 WHERE ` + filtered + `
ORDER BY topic, lane`

// Exceptions returns the lanes of some shares that are apart, claimed or reserved, by topic and lane. Read
// after TakeShares has returned, they are all that there are: no claim of any version takes another lane.
func (s *Store) Exceptions(ctx context.Context, lanes []int16) ([]relay.LaneException, error) {
	ctx, cancel := s.limit(ctx)
	defer cancel()
	found, err := returned(ctx, s, scanException, exceptionsSQL, lanes)
	if unconvertible(err) {
		if err = s.setAside(ctx, ""); err == nil {
			found, err = returned(ctx, s, scanException, exceptionsSQL, lanes)
		}
	}
	if err == nil && len(found) > 0 && found[0].Topic == "" {
		err = unhidden(ctx, s.pool, func() (err error) {
			found, err = returned(ctx, s, scanException, exceptionsSQL, lanes)
			return err
		})
		found = slices.DeleteFunc(found, func(e relay.LaneException) bool { return e.Topic == "" })
	}
	if err != nil {
		return nil, fmt.Errorf("read the exceptions of shares: %w", err)
	}
	return found, nil
}

func scanException(row pgx.CollectableRow) (e relay.LaneException, err error) {
	return e, row.Scan(&e.Topic, &e.Lane, &e.Apart, &e.Claimed, &e.Reserved, &e.Free, &e.LowID)
}

// setApartSQL gives lanes of live shares to the claims of their topics. It waits for no lane, so that the
// share is not locked for long.
const setApartSQL = `
WITH held AS MATERIALIZED (
    SELECT lane, leased_until FROM outbox.share
    WHERE worker = $1::uuid AND lane = ANY ($3::smallint[])
    ORDER BY lane FOR KEY SHARE SKIP LOCKED),
mine AS (
    SELECT l.topic, l.lane, wanted.low_id
    FROM unnest($2::text[], $3::smallint[], $4::bigint[]) AS wanted(topic, lane, low_id)
    JOIN held USING (lane)
    JOIN outbox.lane l USING (topic, lane)
    WHERE held.leased_until >= clock_timestamp()
    ORDER BY l.topic, l.lane
    FOR NO KEY UPDATE OF l SKIP LOCKED)
UPDATE outbox.lane l
SET apart = true, apart_cause = left($5, 200), low_id = greatest(l.low_id, mine.low_id)
FROM mine
WHERE l.topic = mine.topic AND l.lane = mine.lane
RETURNING l.topic, l.lane`

// makeLanesSQL makes the rows of lanes that have none.
const makeLanesSQL = `
INSERT INTO outbox.lane (topic, lane)
SELECT topic, lane FROM unnest($1::text[], $2::smallint[]) AS wanted(topic, lane)
ORDER BY topic, lane
ON CONFLICT DO NOTHING`

// SetApart gives lanes of a worker's live shares to the batches of their topics, with the reason for
// people. All events of these lanes that the worker had in hand must be answered and settled. lowIDs are
// the lanes' low watermarks: nothing is pending below one, and nothing can come there; 0: unknown. done are
// the lanes that are apart now. If another transaction has locked a lane, it is not among them: try again.
func (s *Store) SetApart(ctx context.Context, worker string, lanes []relay.TopicLane, lowIDs []int64, cause string) (done []relay.TopicLane, err error) {
	ctx, cancel := s.limit(ctx)
	defer cancel()
	topics, numbers := topicLaneColumns(lanes)
	set := func() ([]relay.TopicLane, error) {
		return returned(ctx, s, pgx.RowToStructByPos[relay.TopicLane], setApartSQL, worker, topics, numbers, lowIDs, s.text(cause))
	}
	done, err = set()
	if err == nil && len(done) < len(lanes) {
		// Perhaps the sweep has not made their rows yet.
		var tag pgconn.CommandTag
		if tag, err = s.pool.Exec(ctx, makeLanesSQL, topics, numbers); err == nil && tag.RowsAffected() > 0 {
			done, err = set()
		}
	}
	if err != nil {
		return nil, fmt.Errorf("set lanes apart: %w", err)
	}
	return done, nil
}

// rejoinSQL takes lanes back into live shares. A lane that its last attempt has not given back stays out
// for the grace $4: the worker of that attempt may have acknowledgements to settle.
const rejoinSQL = `
WITH held AS MATERIALIZED (
    SELECT lane, leased_until FROM outbox.share
    WHERE worker = $1::uuid AND lane = ANY ($3::smallint[])
    ORDER BY lane FOR KEY SHARE SKIP LOCKED),
back AS (
    SELECT l.topic, l.lane, l.claim_id IS NULL AND l.holder IS NULL AS quiet
    FROM unnest($2::text[], $3::smallint[]) AS wanted(topic, lane)
    JOIN held USING (lane)
    JOIN outbox.lane l USING (topic, lane)
    WHERE held.leased_until >= clock_timestamp() AND ` + mayRejoin + `
    ORDER BY l.topic, l.lane
    FOR NO KEY UPDATE OF l SKIP LOCKED),
joined AS (
    UPDATE outbox.lane l
    SET apart       = l.apart AND NOT back.quiet,
        apart_cause = CASE WHEN back.quiet THEN '' ELSE l.apart_cause END,
        claim_id = NULL, holder = NULL, claimed_by = NULL, leased_until = NULL,
        quiet_at = CASE WHEN back.quiet THEN l.quiet_at ELSE now() + $4::interval END
    FROM back
    WHERE l.topic = back.topic AND l.lane = back.lane
    RETURNING l.*, back.quiet AS is_back)
SELECT ` + exceptionColumns + `
FROM joined l WHERE is_back
ORDER BY l.topic, l.lane`

// Rejoin takes lanes back into a worker's live shares that are Free, and returns them as they are then,
// with their low watermarks. If another transaction has locked a lane, or its last batch did not give it
// back, it is not among them: try again while it is Free.
func (s *Store) Rejoin(ctx context.Context, worker string, lanes []relay.TopicLane) (joined []relay.LaneException, err error) {
	ctx, cancel := s.limit(ctx)
	defer cancel()
	topics, numbers := topicLaneColumns(lanes)
	joined, err = returned(ctx, s, scanException, rejoinSQL, worker, topics, numbers, timing.SettleGrace)
	if err != nil {
		return nil, fmt.Errorf("take lanes back into shares: %w", err)
	}
	return joined, nil
}

// offerSQL finds the workers that need an activity. One whose activity has ended needs another at once.
var offerSQL = `
WITH waiting AS (
    SELECT id FROM outbox.worker
    WHERE NOT seated AND ` + fmt.Sprintf(workerIsSeen, 1, 2) + `
      AND (offered_at IS NULL OR offered_at < now() - $3::interval OR offered_at > now())
    ORDER BY id FOR NO KEY UPDATE SKIP LOCKED)
UPDATE outbox.worker w SET offered_at = now() FROM waiting WHERE w.id = waiting.id`

// Offer returns how many workers were seen lately, have no activity, and were offered none within
// timing.OfferAgain. It notes that each was offered one.
func (s *Store) Offer(ctx context.Context) (seats int, err error) {
	ctx, cancel := s.limit(ctx)
	defer cancel()
	tag, err := s.pool.Exec(ctx, offerSQL, timing.WorkerGone, timing.ClockMargin, timing.OfferAgain)
	if err != nil {
		return 0, fmt.Errorf("look for workers without an activity: %w", err)
	}
	return int(tag.RowsAffected()), nil
}

// returned runs one statement and returns its rows.
func returned[T any](ctx context.Context, s *Store, scan pgx.RowToFunc[T], sql string, args ...any) ([]T, error) {
	rows, err := s.pool.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, scan)
}

func topicLaneColumns(lanes []relay.TopicLane) (topics []string, numbers []int16) {
	topics, numbers = make([]string, len(lanes)), make([]int16, len(lanes))
	for i, l := range lanes {
		topics[i], numbers[i] = l.Topic, l.Lane
	}
	return topics, numbers
}
