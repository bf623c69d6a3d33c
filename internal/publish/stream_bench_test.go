//go:build unix

package publish_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/publish"
	"github.com/temporal-outbox/relay/internal/relay"
)

// yesAWS accepts everything inside the process.
func yesAWS() aws.Config {
	return aws.Config{Region: "eu-west-1", Credentials: credentials.NewStaticCredentialsProvider("id", "secret", ""), HTTPClient: yes{}}
}

// yesPublisher routes so many topics to a queue each.
func yesPublisher(b *testing.B, topics int) *publish.Publisher {
	to := make(map[string]publish.Destination)
	for i := range topics {
		to[fmt.Sprint("topic-", i)] = publish.Destination{SQS: fmt.Sprint("https://sqs.eu-west-1.amazonaws.com/1/topic-", i)}
	}
	p, err := publish.New(publish.Config{AWS: yesAWS(), Topics: to})
	require.NoError(b, err)
	return p
}

// BenchmarkSender_OfOneTopic compares a sender with Publish: both get the events of one topic as
// fast as they send them, in pages of 500. An operation is one event.
func BenchmarkSender_OfOneTopic(b *testing.B) {
	const concurrency = 16
	page := benchEvents()
	b.Run("publish", func(b *testing.B) {
		p := yesPublisher(b, 1)
		b.ReportAllocs()
		used := cpu(b)
		pages := make(chan []relay.Event)
		go func() {
			defer close(pages)
			for n := 0; n < b.N; n += len(page) {
				pages <- slices.Clone(page[:min(len(page), b.N-n)])
			}
		}()
		result, err := p.Publish(b.Context(), publish.Request{
			Topic: "topic-0", Concurrency: concurrency, Events: pages, Report: func([]relay.Outcome) {},
		})
		require.NoError(b, err)
		require.Equal(b, b.N, result.Acknowledged)
		report(b, used)
	})
	b.Run("sender", func(b *testing.B) {
		p := yesPublisher(b, 1)
		b.ReportAllocs()
		used := cpu(b)
		done := make(chan struct{})
		acknowledged, added := 0, 0
		var s relay.Sender
		add := func() {
			for added < b.N && s.Backlog() < len(page) {
				n := min(len(page), b.N-added)
				s.Add("topic-0", slices.Clone(page[:n]))
				added += n
			}
		}
		s = p.Open(relay.SenderRequest{Report: func(_ string, outcomes []relay.Outcome) {
			acknowledged += len(outcomes)
			if acknowledged == b.N {
				close(done)
			}
			add()
		}})
		first := min(len(page), b.N)
		added = first
		s.Add("topic-0", slices.Clone(page[:first]))
		<-done
		require.NoError(b, s.Close(b.Context()))
		report(b, used)
	})
}

// BenchmarkSender_OfFiftyTopics compares the processor time of a sender with that of bare requests
// with one entry: fifty topics get 20 events a second each. An operation is one event.
func BenchmarkSender_OfFiftyTopics(b *testing.B) {
	const topics, perSecond = 50, 1000
	payload := strings.Repeat("0123456789abcdef", 32)
	// pace calls f for each operation at its time. Timers are coarse, so that some come together.
	pace := func(b *testing.B, f func(i int)) {
		start := time.Now()
		for i := range b.N {
			if wait := time.Until(start.Add(time.Duration(i) * time.Second / perSecond)); wait > 0 {
				time.Sleep(wait)
			}
			f(i)
		}
	}
	b.Run("sender", func(b *testing.B) {
		p := yesPublisher(b, topics)
		b.ReportAllocs()
		used := cpu(b)
		var acknowledged atomic.Int64
		s := p.Open(relay.SenderRequest{Report: func(_ string, outcomes []relay.Outcome) { acknowledged.Add(int64(len(outcomes))) }})
		event := benchEvents()[0]
		event.Payload = payload
		pace(b, func(i int) { s.Add(fmt.Sprint("topic-", i%topics), []relay.Event{event}) })
		for acknowledged.Load() < int64(b.N) {
			time.Sleep(time.Millisecond)
		}
		require.NoError(b, s.Close(context.Background()))
		report(b, used)
	})
	b.Run("bare", func(b *testing.B) {
		send := bareEntries(b, yesAWS(), fixture{queue: "https://sqs.eu-west-1.amazonaws.com/1/topic-0"}, 1,
			func(o *sqs.Options) { o.DisableMessageChecksumValidation = true }) // as the sender, and yes has no true ones
		b.ReportAllocs()
		used := cpu(b)
		work := make(chan struct{}, perSecond)
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for range work {
					if err := send(); err != nil {
						b.Error(err)
					}
				}
			})
		}
		pace(b, func(int) { work <- struct{}{} })
		close(work)
		wg.Wait()
		report(b, used)
	})
}
