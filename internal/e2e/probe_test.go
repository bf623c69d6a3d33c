package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/testenv"
)

// shrink makes a queue refuse events of more bytes, one by one, with a code that it
// also has for other faults. The worker has looked the old limit up.
func (q queue) shrink(bytes int) {
	q.t.Helper()
	_, err := q.sqs.SetQueueAttributes(q.t.Context(), &sqs.SetQueueAttributesInput{
		QueueUrl: &q.url, Attributes: map[string]string{"MaximumMessageSize": fmt.Sprint(bytes)},
	})
	require.NoError(q.t, err)
}

func TestRecovery_MoreAmbiguousPoisonThanAPageBecomesDeadLetters(t *testing.T) {
	t.Parallel()
	for kind, suffix := range map[string]string{"standard": "", "FIFO": ".fifo"} {
		t.Run(kind, func(t *testing.T) {
			q := newQueue(t, testenv.Name(t)+suffix)
			o := newOutbox(t, "topics:\n  orders: {sqs: "+q.name+"}\n")
			c := testenv.Temporal(t)
			o.work()
			q.shrink(1024)
			const poison, good = 3000, 200
			o.exec(`INSERT INTO outbox.event (topic, key, type, payload)
			        SELECT 'orders', 'bad-' || i % 3000, 'Tested', repeat('x', 2000) || i FROM generate_series(1, $1::int) i`, poison)
			o.exec(`INSERT INTO outbox.event (topic, key, type, payload)
			        SELECT 'orders', CASE WHEN i % 2 = 1 THEN 'bad-' || i ELSE 'good-' || i % 40 END, 'Tested', 'e-' || i
			        FROM generate_series(1, $1::int) i`, good)
			o.schedule()
			later := 0
			testenv.Eventually(t, 3*time.Minute, func() error {
				n := o.pending()
				if n == 0 {
					return nil
				}
				// A destination that accepts nothing for seconds is taken for a broken one.
				if o.count(`SELECT count(*) FROM outbox.pending WHERE bytes < 1000`) == 0 {
					later++
					o.write("orders", fmt.Sprint("later-", later), 1, 1)
				}
				return fmt.Errorf("%d events are pending", n)
			})
			require.Equal(t, poison, o.count(`SELECT count(*) FROM outbox.dead_letter WHERE code LIKE 'InvalidParameter%'`))
			require.Equal(t, poison, o.count(`SELECT count(*) FROM outbox.dead_letter`))
			messages := slices.DeleteFunc(q.receive(good+later, 30*time.Second), func(m types.Message) bool {
				return strings.HasPrefix(*m.Body, "later-")
			})
			requireOnce(t, messages, "e", good)
			last := map[string]int{}
			for _, m := range messages {
				var n int
				_, err := fmt.Sscanf(*m.Body, "e-%d", &n)
				require.NoError(t, err)
				if key := m.Attributes["MessageGroupId"]; strings.HasPrefix(key, "good-") {
					require.Greater(t, n, last[key], "the order of %s", key)
					last[key] = n
				}
			}
			require.Positive(t, o.recoveries(c), "a page could not tell")
			t.Logf("the last of %d recoveries: %+v", o.recoveries(c), o.ended(c, "orders"))
		})
	}
}
