//go:build unix

package publish_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/publish"
	"github.com/temporal-outbox/relay/internal/relay"
)

// quota is an AWS, 15 ms away, that throttles more than so many requests in a second. It answers
// the SDK's HTTP client, so the time of a test may be its own.
type quota struct {
	yes
	perSecond float64

	mu                sync.Mutex
	tokens            float64
	last              time.Time
	accepted, refused int
}

func (q *quota) Do(req *http.Request) (*http.Response, error) {
	if req.Header.Get("X-Amz-Target") != "AmazonSQS.GetQueueAttributes" {
		time.Sleep(15 * time.Millisecond)
		if !q.admit() {
			return &http.Response{
				StatusCode: http.StatusBadRequest, Header: http.Header{"X-Amzn-Query-Error": {"RequestThrottled;Sender"}},
				Body: io.NopCloser(strings.NewReader(throttled(req))), Request: req,
			}, nil
		}
	}
	return q.yes.Do(req)
}

// throttled is how SNS and SQS say so.
func throttled(req *http.Request) string {
	if strings.HasPrefix(req.URL.Host, "sns.") {
		return "<ErrorResponse><Error><Type>Sender</Type><Code>Throttled</Code><Message>slow down</Message></Error></ErrorResponse>"
	}
	return `{"__type":"com.amazonaws.sqs#RequestThrottled","message":"slow down"}`
}

func (q *quota) admit() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now()
	// A quota of a second lets a tenth of a second through at once.
	q.tokens = min(q.perSecond/10, q.tokens+now.Sub(q.last).Seconds()*q.perSecond)
	q.last = now
	if q.tokens < 1 {
		q.refused++
		return false
	}
	q.tokens--
	q.accepted++
	return true
}

func (q *quota) counts() (accepted, refused float64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return float64(q.accepted), float64(q.refused)
}

// A FIFO queue without high throughput accepts 300 requests a second. Four batches send as many
// events as they can, and each begins anew a second after it was refused.
func TestPublish_SettlesBelowTheQuotaOfItsDestination(t *testing.T) {
	const perSecond = 300
	for _, d := range []publish.Destination{
		{SNS: "arn:aws:sns:eu-west-1:1:t"},
		{SQS: "https://sqs.eu-west-1.amazonaws.com/1/t"},
		{SNS: "arn:aws:sns:eu-west-1:1:t.fifo"},
		{SQS: "https://sqs.eu-west-1.amazonaws.com/1/t.fifo"},
	} {
		t.Run(d.SNS+d.SQS, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q := &quota{perSecond: perSecond, last: time.Now()}
				cfg := aws.Config{Region: "eu-west-1", Credentials: credentials.NewStaticCredentialsProvider("id", "secret", ""), HTTPClient: q}
				p, err := publish.New(publish.Config{AWS: cfg, Topics: map[string]publish.Destination{"orders": d}})
				require.NoError(t, err)
				ctx, cancel := context.WithCancel(t.Context())
				var batches sync.WaitGroup
				for batch := range 4 {
					batches.Go(func() {
						for ctx.Err() == nil {
							publishUntilRefused(ctx, p, batch)
							time.Sleep(time.Second)
						}
					})
				}
				time.Sleep(8 * time.Second)
				accepted, refused := q.counts()
				time.Sleep(10 * time.Second)
				acceptedNow, refusedNow := q.counts()
				cancel()
				batches.Wait()
				accepted, refused = acceptedNow-accepted, refusedNow-refused
				t.Logf("%.0f of %.0f accepted in a second, %.1f refused", accepted/10, float64(perSecond), refused/10)
				assert.Less(t, refused, 0.02*(accepted+refused))
				assert.GreaterOrEqual(t, accepted/10, 0.85*perSecond)
			})
		})
	}
}

func publishUntilRefused(ctx context.Context, p *publish.Publisher, batch int) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	pages := make(chan []relay.Event)
	var feeding sync.WaitGroup
	feeding.Go(func() {
		defer close(pages)
		for {
			page := manyEvents(100)
			for i := range page {
				page[i].Key = fmt.Sprint(batch, "-", i)
			}
			select {
			case pages <- page:
			case <-ctx.Done():
				return
			}
		}
	})
	_, _ = p.Publish(ctx, publish.Request{Topic: "orders", Events: pages, Report: func(outcomes []relay.Outcome) {
		for _, o := range outcomes {
			if o.Err != nil {
				stop()
			}
		}
	}})
	feeding.Wait()
}

func TestPublish_TwoTopicsOfADestinationShareItsLimit(t *testing.T) {
	w := newWire(t)
	var mu sync.Mutex
	inFlight, most := 0, 0
	w.publish = func(wireBatch) wireReply {
		mu.Lock()
		inFlight++
		most = max(most, inFlight)
		mu.Unlock()
		time.Sleep(100 * time.Millisecond)
		mu.Lock()
		defer mu.Unlock()
		inFlight--
		return wireReply{}
	}
	d := publish.Destination{SQS: "https://queue.example/1/orders"}
	p := w.publisher(d, func(cfg *publish.Config) { cfg.Topics["invoices"] = d })
	var sending sync.WaitGroup
	for _, topic := range []string{"orders", "invoices"} {
		sending.Go(func() {
			pages := make(chan []relay.Event, 1)
			pages <- manyEvents(200) // too few requests for the limit to grow
			close(pages)
			_, err := p.Publish(t.Context(), publish.Request{Topic: topic, Events: pages, Report: func([]relay.Outcome) {}})
			assert.NoError(t, err)
		})
	}
	sending.Wait()
	mu.Lock()
	defer mu.Unlock()
	require.LessOrEqual(t, most, 17, "a batch that has no request in flight waits for none of others")
	require.Greater(t, most, 8)
}
