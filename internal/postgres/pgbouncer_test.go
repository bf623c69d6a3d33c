package postgres

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/testenv"
	"github.com/temporal-outbox/relay/outbox"
)

// bounced are the server connections that a store's sixteen share.
const bounced = 3

// behindPgBouncer is a store whose every transaction may be in another session
// than the one before.
func behindPgBouncer(t testing.TB) testOutbox {
	t.Helper()
	url := testenv.DatabaseURL(t)
	return openBy(t, testenv.PgBouncer(t, url, bounced), url)
}

func TestPgBouncer_LosesRepeatsAndReordersNothingInTransactionMode(t *testing.T) {
	o := behindPgBouncer(t)
	ctx, stop := context.WithCancel(t.Context())
	var watching sync.WaitGroup
	most := 0
	watching.Go(func() {
		for ctx.Err() == nil {
			var n int
			err := o.db.QueryRow(ctx, `SELECT count(*)::int FROM pg_stat_activity
			    WHERE datname = current_database() AND application_name = 'outbox-relay'`).Scan(&n)
			if err == nil {
				most = max(most, n)
			}
			time.Sleep(20 * time.Millisecond) // the next sample
		}
	})
	flow(t, o, 8)
	clients := o.pool.Stat().TotalConns()
	stop()
	watching.Wait()
	t.Logf("%d connections of the store shared %d of the server", clients, most)
	require.Equal(t, bounced, most, "the pooler is not between them, or not busy")
	require.Greater(t, int(clients), bounced)
}

// What the flow leaves out, each twice, in whatever session comes.
func TestPgBouncer_RunsEveryStatementInTransactionMode(t *testing.T) {
	o := behindPgBouncer(t)
	ctx := t.Context()
	var all sync.WaitGroup
	for range 4 * bounced { // so that each session meets other statements
		all.Go(func() {
			for range 5 {
				if err := o.Check(ctx); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range 2 {
		require.NoError(t, o.EnsureLanes(ctx, []string{"orders"}))
		o.write("orders", 20)
		batch, lease := o.claimOne()
		refs := o.load(lease)
		require.Len(t, refs, 20)
		known, err := o.Refuse(ctx, "orders", refusedAs("Refused", refs[0]))
		require.NoError(t, err)
		require.Len(t, known, 1)
		require.NoError(t, o.DeadLetter(ctx, lease, "relay-1", refusedAs("Poison", refs...)))
		blocked, err := o.Blocked(ctx, "orders", []string{"k1", "other"})
		require.NoError(t, err)
		require.Len(t, blocked, 1)
		require.NoError(t, o.HoldForRecovery(ctx, "orders", "recovery-1", time.Minute))
		require.NoError(t, o.EndRecoveryHold(ctx, "orders", "recovery-1"))
		require.NoError(t, o.ReleaseClaim(ctx, batch))
		require.NoError(t, o.forgetRefusals(ctx))

		o.write("orders", 1)
		claimed, err := o.Claim(ctx, request("run/1"))
		require.NoError(t, err)
		held, err := o.Claimed(ctx, "run/1")
		require.NoError(t, err)
		require.Len(t, held, len(claimed))
		require.NoError(t, o.ReleaseUnbegun(ctx))
		_, err = o.Status(ctx)
		require.NoError(t, err)
		_, _, err = o.TryAcquireSampling(ctx, "a", time.Hour)
		require.NoError(t, err)
		require.NoError(t, o.DeferSampling(ctx, "a", 0))
		_, err = o.Topics(ctx)
		require.NoError(t, err)
		_, lease = o.claimOne()
		require.Len(t, o.drain(lease), 1)

		o.write("orders", 20)
		o.hold(1, 2)
		look := everything()
		look.Ranges[0].From = query[int64](o, `SELECT min(id) FROM outbox.pending`)
		for range 2 { // the second one with bounds on created_at
			require.Len(t, o.see(look).Events, 20)
		}
		var pages []relay.LaneCursor
		for _, first := range o.discover(everyLane...).First {
			pages = append(pages, relay.LaneCursor{TopicLane: first.TopicLane, After: first.Ref.ID - 1, Most: 20})
		}
		read := o.pages(100, pages...)
		require.Len(t, read.Events, 20)
		contents, err := o.Contents(ctx, read.Events)
		require.NoError(t, err)
		require.Len(t, contents, 20)
		require.NoError(t, o.SettleTopics(ctx, topicRefs(read.Events)))
		o.hold()

		require.NoError(t, o.Known(ctx, "orders"))
		o.exec(`UPDATE outbox.lane SET quiet_at = NULL`) // the claim was released over its attempt's head
		letters, err := o.DeadLetters(ctx, "orders", relay.Selection{Key: "k1"}, 5)
		require.NoError(t, err)
		require.Len(t, letters, 1)
		id, err := outbox.ParseID(letters[0].EventID)
		require.NoError(t, err)
		lives, err := o.ByEventID(ctx, id, nil)
		require.NoError(t, err)
		require.Equal(t, "dead", lives[0].Deliveries[0].State)
		_, err = o.Content(ctx, id, lives[0].ID, true)
		require.NoError(t, err)
		_, err = o.ByKey(ctx, "orders", "k2", 5, nil)
		require.NoError(t, err)
		_, err = o.DeadCounts(ctx)
		require.NoError(t, err)
		_, err = o.CountDead(ctx, "orders", relay.Selection{Type: "T"})
		require.NoError(t, err)
		require.Equal(t, 1, o.operate(relay.Discard, relay.Selection{Key: "k1"}, 10))
		require.Equal(t, 19, o.operate(relay.Redrive, relay.Selection{}, 10))
		_, lease = o.claimOne()
		require.Len(t, o.drain(lease), 19)
		n, _, err := o.CountPublished(ctx, "orders", relay.Selection{Key: "k2"}, nil)
		require.NoError(t, err)
		require.EqualValues(t, n, o.operate(relay.Replay, relay.Selection{Key: "k2"}, 10))
		require.NoError(t, o.Reserve(ctx, "orders", []int16{1}, time.Millisecond))
		_, lease = o.claimOne()
		require.Len(t, o.drain(lease), int(n))

		c := o.carrier()
		require.Len(t, c.take(allLanes()...), relay.Lanes)
		require.Len(t, c.attend(allLanes()...).Mine, relay.Lanes)
		require.Empty(t, c.exceptions(allLanes()...))
		lane := relay.TopicLane{Topic: "orders", Lane: 3}
		require.Len(t, c.setApart("refused", lane), 1)
		require.Len(t, c.rejoin(lane), 1)
		_, err = o.Offer(ctx)
		require.NoError(t, err)
		require.NoError(t, c.GiveBackShares(ctx, c.id, []int16{1}))
		require.NoError(t, c.Leave(ctx, c.id))
	}
	all.Wait()
	require.Zero(t, o.pending())
}

// A statement that is cancelled half-way must not take the session down with it
// in which somebody else is next.
func TestPgBouncer_AnExpiredCallHarmsNoOther(t *testing.T) {
	o := behindPgBouncer(t)
	o.write("orders", 50)
	_, lease := o.claimOne()
	tx, err := o.db.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), `LOCK outbox.pending IN ACCESS EXCLUSIVE MODE`)
	require.NoError(t, err)
	short, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	var waiting sync.WaitGroup
	for range 2 * bounced {
		waiting.Go(func() {
			if _, err := o.Load(short, lease, nil, relay.PageEvents); err == nil {
				t.Error("it was to wait")
			}
		})
	}
	waiting.Wait()
	require.NoError(t, tx.Rollback(t.Context()))
	for range 2 * bounced {
		page, err := o.Load(t.Context(), lease, nil, relay.PageEvents)
		require.NoError(t, err)
		require.Len(t, page.Events, 50)
	}
}
