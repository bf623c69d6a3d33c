package postgres

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/timing"
)

// These benchmarks measure what is read and written however little flows, beside many topics:
//
//	go test -run '^$' -bench ManyTopics ./internal/postgres

var manyTopics = []int{20, 1000, 5000}

// carried is an outbox with n topics whose shares one worker holds.
func carried(b *testing.B, n int) carrier {
	b.Helper()
	o := open(b)
	o.exec(`INSERT INTO outbox.lane (topic, lane) SELECT 'topic-' || t, l FROM generate_series(1, $1::int) t, generate_series(0, 15) l`, n)
	o.exec(`INSERT INTO outbox.topic (topic) SELECT 'topic-' || t FROM generate_series(1, $1::int) t`, n)
	c := o.carrier()
	c.take(allLanes()...)
	c.attend(allLanes()...)
	o.exec(`VACUUM ANALYZE outbox.lane, outbox.topic, outbox.share, outbox.worker, outbox.pending`)
	return c
}

func BenchmarkAttend_ManyTopics(b *testing.B) {
	for _, n := range manyTopics {
		for _, had := range []string{"nothing", "operations", "three apart", "a batch from before", "200 apart"} {
			b.Run(fmt.Sprintf("%d topics, %s", n, had), func(b *testing.B) {
				c := carried(b, n)
				switch had {
				case "operations": // of every topic: they leave the time until which a lane was reserved
					c.exec(`UPDATE outbox.lane SET reserved_until = now() - interval '1 minute'`)
					c.exec(`VACUUM ANALYZE outbox.lane`)
				case "a batch from before": // it had its lanes when the shares were taken, and goes on
					c.exec(`UPDATE outbox.lane SET claim_id = gen_random_uuid(), holder = gen_random_uuid(), claimed_at = now() - interval '1 hour',
					        leased_until = now() + interval '1 hour', retrying = true, apart = true WHERE topic = 'topic-7'`)
					c.exec(`UPDATE outbox.lane SET apart = false WHERE topic = 'topic-7'`)
					c.exec(`UPDATE outbox.share SET mixed = true`)
				case "three apart", "200 apart": // the latter is what a limit of messages per second for each would do
					for t := range min(n, map[string]int{"three apart": 3, "200 apart": 200}[had]) {
						var lanes []relay.TopicLane
						for _, lane := range allLanes() {
							lanes = append(lanes, relay.TopicLane{Topic: fmt.Sprint("topic-", 1+t), Lane: lane})
						}
						c.setApart("refused", lanes...)
					}
				}
				fastest := time.Hour
				for b.Loop() {
					began := time.Now()
					c.attend(allLanes()...)
					fastest = min(fastest, time.Since(began))
				}
				b.ReportMetric(fastest.Seconds()*1000, "fastest-ms")
				c.explain(b, attendSQL, c.id, "w", true, allLanes(), timing.ShareLease, timing.WorkerGone, timing.ClockMargin, timing.BatchSlow)
			})
		}
	}
}

func BenchmarkClaim_ManyTopicsInShares(b *testing.B) {
	for _, n := range manyTopics {
		for name, explained := range map[string]func(c carrier, b *testing.B){
			"search": func(c carrier, b *testing.B) {
				c.explain(b, waitingLanesSQL, 4, []string{}, []int{}, nil, 4, timing.ShareFirst)
			},
			"probe": func(c carrier, b *testing.B) { c.explain(b, mayWaitSQL, timing.ShareFirst, relay.Lanes) },
		} {
			b.Run(fmt.Sprintf("%d topics, %s", n, name), func(b *testing.B) {
				c := carried(b, n)
				c.exec(`UPDATE outbox.share SET leased_until = now() + interval '1 hour'`)
				for b.Loop() {
				}
				explained(c, b)
			})
		}
	}
}

func BenchmarkTopics_ManyTopics(b *testing.B) {
	for _, n := range manyTopics {
		for _, pending := range []int{0, 20} {
			b.Run(fmt.Sprintf("%d topics, %d pending each", n, pending), func(b *testing.B) {
				c := carried(b, n)
				c.insert(pending*n, n)
				for b.Loop() {
					_, err := c.Topics(b.Context())
					require.NoError(b, err)
				}
			})
		}
	}
}

func BenchmarkStatus_ManyTopics(b *testing.B) {
	for _, n := range manyTopics {
		b.Run(fmt.Sprintf("%d topics", n), func(b *testing.B) {
			c := carried(b, n)
			c.insert(20*n, n)
			for b.Loop() {
				_, err := c.Status(b.Context())
				require.NoError(b, err)
			}
		})
	}
}
