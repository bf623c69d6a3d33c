package postgres

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/testenv"
	"github.com/temporal-outbox/relay/outbox"
)

// week keeps the receipts of topics for a week.
func (o testOutbox) week(topics ...string) {
	o.t.Helper()
	keep := make(map[string]time.Duration)
	for _, topic := range topics {
		keep[topic] = 7 * 24 * time.Hour
	}
	left, err := o.KeepReceipts(o.t.Context(), keep, 2)
	require.NoError(o.t, err)
	require.Empty(o.t, left)
}

// event writes an event of a topic.
func (o testOutbox) event(topic string) (id string, ref relay.Ref) {
	o.t.Helper()
	o.write(topic, 1)
	require.NoError(o.t, o.db.QueryRow(o.t.Context(), `SELECT event_id::text, id, lane, (extract(epoch FROM created_at) * 1000000)::bigint
	    FROM outbox.event ORDER BY id DESC LIMIT 1`).Scan(&id, &ref.ID, &ref.Lane, &ref.At))
	return id, ref
}

func (o testOutbox) life(eventID string) EventLife {
	o.t.Helper()
	event, err := outbox.ParseID(eventID)
	require.NoError(o.t, err)
	found, err := o.ByEventID(o.t.Context(), event, nil)
	require.NoError(o.t, err)
	require.Len(o.t, found, 1)
	return found[0]
}

func receipt(topic string, r relay.Ref, message string) relay.Receipt {
	return relay.Receipt{Ref: r, Topic: topic, MessageID: message, Destination: "https://sqs.eu-central-1.amazonaws.com/111122223333/" + topic, At: time.Now()}
}

func (o testOutbox) partitions() []string {
	o.t.Helper()
	return query[[]string](o, `SELECT coalesce(array_agg(to_date(substr(c.relname, 9), 'YYYYMMDD') - (now() AT TIME ZONE 'UTC')::date || '' ORDER BY c.relname), '{}')
	    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'outbox.receipt'::regclass`)
}

func TestReceipts_SayWhenAnEventWasPublishedAndAsWhichMessage(t *testing.T) {
	o := open(t)
	id, ref := o.event("orders")
	require.Empty(t, o.life(id).Receipts)
	require.Nil(t, o.life(id).ReceiptsSince, "they are off")
	o.week("orders")
	again := ref
	again.Replay = 7
	stranger := ref
	stranger.At++ // another event that was given the same id
	first := receipt("orders", ref, "m-1")
	first.At = first.At.Add(-time.Minute) // it had to wait
	require.NoError(t, o.WriteReceipts(t.Context(), []relay.Receipt{
		receipt("orders", again, "m-3"), first, receipt("orders", ref, "m-2"), receipt("orders", stranger, "m-4"),
	}))
	require.NoError(t, o.WriteReceipts(t.Context(), []relay.Receipt{first}), "written twice, after an error")
	life := o.life(id)
	require.Len(t, life.Receipts, 3)
	require.Equal(t, "168h0m0s", life.ReceiptsFor)
	require.NotNil(t, life.ReceiptsSince)
	require.False(t, life.ReceiptsUnknown)
	require.True(t, life.Gone, "it was written before they were on")
	now := query[time.Time](o, `SELECT clock_timestamp()`)
	require.Equal(t, "m-1", life.Receipts[0].MessageID)
	require.WithinDuration(t, now.Add(-time.Minute), life.Receipts[0].PublishedAt, 5*time.Second)
	for _, r := range life.Receipts {
		require.Equal(t, "https://sqs.eu-central-1.amazonaws.com/111122223333/orders", r.Destination)
		require.Equal(t, r.MessageID == "m-3", r.Replay == 7)
		if r.MessageID != "m-1" {
			require.WithinDuration(t, now, r.PublishedAt, 5*time.Second)
		}
	}
	later, _ := o.event("orders")
	require.False(t, o.life(later).Gone)
}

func TestReceipts_OfManyTopicsAreOneStatement(t *testing.T) {
	o := open(t)
	o.week("orders", "audit", "größe")
	var all []relay.Receipt
	for i := range 1000 {
		topic := []string{"orders", "audit", "größe"}[i%3]
		all = append(all, receipt(topic, relay.Ref{ID: int64(i + 1), At: 1}, fmt.Sprint("m-", i)))
	}
	require.NoError(t, o.WriteReceipts(t.Context(), all))
	require.Equal(t, 1000, query[int](o, `SELECT count(*) FROM outbox.receipt WHERE destination LIKE '%/' || topic
	    AND topic = (ARRAY['orders', 'audit', 'größe'])[(id - 1) % 3 + 1] AND message_id = 'm-' || id - 1`))
}

func TestReceipts_WithoutAPartitionAreRefusedAndNothingElseIs(t *testing.T) {
	o := open(t)
	o.write("orders", 3)
	_, l := o.claimOne()
	require.ErrorIs(t, o.WriteReceipts(t.Context(), []relay.Receipt{receipt("orders", relay.Ref{ID: 1, At: 1}, "m")}), relay.ErrReceiptsRefused)
	o.drain(l)
	require.Zero(t, o.pending())
	o.week("orders")
	require.NoError(t, o.WriteReceipts(t.Context(), []relay.Receipt{receipt("orders", relay.Ref{ID: 1, At: 1}, "m")}))
}

func TestReceipts_ThatMayBeWrittenLaterAreNotRefused(t *testing.T) {
	o := open(t)
	o.week("orders")
	tx, err := o.db.Begin(t.Context())
	require.NoError(t, err)
	defer tx.Rollback(t.Context())
	_, err = tx.Exec(t.Context(), `LOCK TABLE outbox.receipt IN ACCESS EXCLUSIVE MODE`)
	require.NoError(t, err)
	short, err := Open(t.Context(), Config{URL: o.db.Config().ConnString(), Timeout: 200 * time.Millisecond})
	require.NoError(t, err)
	defer short.Close()
	some := []relay.Receipt{receipt("orders", relay.Ref{ID: 1, At: 1}, "m")}
	err = short.WriteReceipts(t.Context(), some)
	require.Error(t, err)
	require.NotErrorIs(t, err, relay.ErrReceiptsRefused)
	require.NoError(t, tx.Rollback(t.Context()))
	require.NoError(t, short.WriteReceipts(t.Context(), some))
}

// A commit that waits for the disk would cost what a settlement costs.
func TestReceipts_WaitForNoDisk(t *testing.T) {
	o := open(t)
	o.week("orders")
	o.exec(`CREATE TABLE public.seen (setting text);
	        CREATE FUNCTION public.see() RETURNS trigger LANGUAGE plpgsql AS
	        $$ BEGIN INSERT INTO public.seen VALUES (current_setting('synchronous_commit')); RETURN NULL; END $$;
	        CREATE TRIGGER see AFTER INSERT ON outbox.receipt FOR EACH ROW EXECUTE FUNCTION public.see()`)
	require.NoError(t, o.WriteReceipts(t.Context(), []relay.Receipt{receipt("orders", relay.Ref{ID: 1, At: 1}, "m")}))
	require.Equal(t, "off", query[string](o, `SELECT setting FROM public.seen`))
	require.Equal(t, []string{"on"}, func() (all []string) { // and later transactions of the pool do
		var s string
		require.NoError(t, o.pool.QueryRow(t.Context(), `SHOW synchronous_commit`).Scan(&s))
		return append(all, s)
	}())
}

func TestKeepReceipts_MakesPartitionsOnlyWhereATopicKeepsSome(t *testing.T) {
	o := open(t)
	o.week()
	require.Empty(t, o.partitions())
	require.Zero(t, query[int](o, `SELECT count(*) FROM outbox.receipt_topic`))
	o.week("orders")
	require.Equal(t, []string{"0", "1", "2"}, o.partitions())
	since := query[time.Time](o, `SELECT since FROM outbox.receipt_topic`)
	before := query[string](o, `SELECT xmin::text FROM outbox.receipt_topic`)
	o.week("orders")
	require.Equal(t, before, query[string](o, `SELECT xmin::text FROM outbox.receipt_topic`), "nothing has changed and nothing is written")

	o.week("audit") // and orders no more
	id, _ := o.event("orders")
	require.Nil(t, o.life(id).ReceiptsSince)
	o.week("orders")
	require.True(t, query[time.Time](o, `SELECT since FROM outbox.receipt_topic WHERE topic = 'orders'`).After(since))
	require.NotNil(t, o.life(id).ReceiptsSince)
}

func TestKeepReceipts_OfWorkersThatStartAtOnceAgrees(t *testing.T) {
	o := open(t)
	var all sync.WaitGroup
	topics := map[string]time.Duration{}
	for i := range 50 {
		topics[fmt.Sprint("topic-", i)] = time.Hour
	}
	for range 6 {
		all.Go(func() {
			left, err := o.KeepReceipts(t.Context(), topics, 5)
			if err != nil || len(left) > 0 {
				t.Errorf("%v %v", left, err)
			}
		})
	}
	all.Wait()
	require.Equal(t, []string{"0", "1", "2", "3", "4", "5"}, o.partitions())
	require.Equal(t, 50, query[int](o, `SELECT count(*) FROM outbox.receipt_topic`))
}

func TestKeepReceipts_SaysWhichTableIsInTheWay(t *testing.T) {
	o := open(t)
	o.week("orders")
	name := "outbox.receipt_" + query[string](o, `SELECT to_char((now() AT TIME ZONE 'UTC')::date, 'YYYYMMDD')`)
	o.exec(`ALTER TABLE outbox.receipt DETACH PARTITION ` + name)
	left, err := o.KeepReceipts(t.Context(), map[string]time.Duration{"orders": time.Hour}, 2)
	require.NoError(t, err)
	require.Len(t, left, 1)
	require.Contains(t, left[0], "because a table "+name+" exists")
}

// Partitions come and go beside writers: neither do those wait, nor is anything refused.
func TestReceipts_AreWrittenWhilePartitionsComeAndGo(t *testing.T) {
	o := open(t)
	o.week("orders")
	stop, longest := make(chan struct{}), make(chan time.Duration, 4)
	for n := range 4 {
		go func() {
			var most time.Duration
			defer func() { longest <- most }()
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				began := time.Now()
				if err := o.WriteReceipts(t.Context(), []relay.Receipt{receipt("orders", relay.Ref{ID: int64(n*1_000_000 + i), At: 1}, "m")}); err != nil {
					t.Error(err)
					return
				}
				most = max(most, time.Since(began))
			}
		}()
	}
	for n := range 10 {
		o.exec(`SELECT outbox.make_receipt_partition((now() AT TIME ZONE 'UTC')::date - $1::int)`, 20+n)
		left, err := o.KeepReceipts(t.Context(), map[string]time.Duration{"orders": time.Hour}, 3+n)
		require.NoError(t, err)
		require.Empty(t, left)
		left, err = o.DropReceipts(t.Context())
		require.NoError(t, err)
		require.Empty(t, left)
	}
	close(stop)
	for range 4 {
		require.Less(t, <-longest, 2*time.Second)
	}
	require.Len(t, o.partitions(), 13)
}

func TestDropReceipts_KeepsEachDayForAsLongAsAnyTopicKeepsIt(t *testing.T) {
	o := open(t)
	left, err := o.KeepReceipts(t.Context(), map[string]time.Duration{"orders": 3 * 24 * time.Hour, "audit": time.Hour}, 0)
	require.NoError(t, err)
	require.Empty(t, left)
	for n := range 7 {
		o.exec(`SELECT outbox.make_receipt_partition((now() AT TIME ZONE 'UTC')::date - $1::int)`, n)
	}
	drop := func() []string {
		left, err := o.DropReceipts(t.Context())
		require.NoError(t, err)
		require.Empty(t, left)
		return o.partitions()
	}
	require.Equal(t, []string{"-3", "-2", "-1", "0"}, drop())
	o.week() // all off: what there is stays for as long as it was to be kept
	require.Equal(t, []string{"-3", "-2", "-1", "0"}, drop())
	o.exec(`UPDATE outbox.receipt_topic SET ended_at = now() - interval '5 days'`)
	drop()
	require.Zero(t, query[int](o, `SELECT count(*) FROM outbox.receipt_topic`))
	require.Equal(t, []string{"0"}, drop())
}

func TestDropReceipts_LeavesAPartitionThatASessionReadsAndStopsNoWriter(t *testing.T) {
	o := open(t)
	o.week("orders")
	o.exec(`SELECT outbox.make_receipt_partition((now() AT TIME ZONE 'UTC')::date - 20)`)
	reader, err := o.db.Begin(t.Context())
	require.NoError(t, err)
	defer reader.Rollback(t.Context())
	_, err = reader.Exec(t.Context(), `SELECT count(*) FROM outbox.receipt`)
	require.NoError(t, err)
	s, err := Open(t.Context(), Config{URL: o.db.Config().ConnString(), MakePatience: time.Second})
	require.NoError(t, err)
	defer s.Close()
	left := make(chan []string, 1)
	go func() {
		l, err := s.DropReceipts(t.Context())
		if err != nil {
			t.Error(err)
		}
		left <- l
	}()
	for done := false; !done; {
		began := time.Now()
		require.NoError(t, o.WriteReceipts(t.Context(), []relay.Receipt{receipt("orders", relay.Ref{ID: 1, At: 1}, "m")}))
		require.Less(t, time.Since(began), time.Second)
		select {
		case l := <-left:
			require.Len(t, l, 1)
			require.Contains(t, l[0], "are not dropped")
			done = true
		default:
		}
	}
	require.Contains(t, o.partitions(), "-20")
}

func TestReceipts_TheRelaysRoleSufficesForEachStep(t *testing.T) {
	pool := testenv.Database(t)
	relayPool := testenv.AsRole(t, pool, "outbox_relay")
	s, err := Open(t.Context(), Config{URL: relayPool.Config().ConnString()})
	require.NoError(t, err)
	defer s.Close()
	o := testOutbox{s, t, pool}
	o.week("orders")
	id, ref := o.event("orders")
	require.NoError(t, s.WriteReceipts(t.Context(), []relay.Receipt{receipt("orders", ref, "m")}))
	require.Len(t, o.life(id).Receipts, 1)
	o.exec(`SELECT outbox.make_receipt_partition((now() AT TIME ZONE 'UTC')::date - 20)`)
	_, err = s.DropReceipts(t.Context())
	require.NoError(t, err)
	require.NotContains(t, o.partitions(), "-20")
	for _, right := range []string{
		"SELECT ON outbox.receipt", "INSERT ON outbox.receipt",
		"SELECT ON outbox.receipt_topic", "INSERT ON outbox.receipt_topic", "UPDATE ON outbox.receipt_topic", "DELETE ON outbox.receipt_topic",
		"EXECUTE ON FUNCTION outbox.make_receipt_partition(date)", "EXECUTE ON FUNCTION outbox.drop_receipt_partition(date)",
	} {
		o.exec(`REVOKE ` + right + ` FROM outbox_relay`)
		require.ErrorContains(t, s.Rights(t.Context()), "receipt", right)
		o.exec(`GRANT ` + right + ` TO outbox_relay`)
		require.NoError(t, s.Rights(t.Context()), right)
	}
}

func TestWhere_ToARoleThatMayNotReadReceiptsSaysSo(t *testing.T) {
	o := open(t)
	id, _ := o.event("orders")
	o.exec(`DROP TABLE outbox.receipt`) // as in an outbox that is older
	life := o.life(id)
	require.True(t, life.ReceiptsUnknown)
	require.Equal(t, "pending", life.State)
}
