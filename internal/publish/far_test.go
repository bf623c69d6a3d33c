//go:build unix

package publish_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
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

// far is a destination that accepts everything, after a delay.
type far struct {
	*httptest.Server
	delay time.Duration
	body  string
}

func newFar(t testing.TB, service publish.Service, delay time.Duration) *far {
	f := &far{delay: delay, body: yesSQS}
	if service == publish.SNS {
		f.body = yesSNS
	}
	f.Server = httptest.NewServer(f)
	t.Cleanup(f.Close)
	return f
}

func (f *far) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	start := make([]byte, len("Action=GetTopicAttributes"))
	_, _ = io.ReadFull(r.Body, start)
	_, _ = io.Copy(io.Discard, r.Body)
	if string(start) == "Action=GetTopicAttributes" {
		_, _ = io.WriteString(rw, "<GetTopicAttributesResponse><GetTopicAttributesResult/></GetTopicAttributesResponse>")
		return
	}
	time.Sleep(f.delay)
	_, _ = io.WriteString(rw, f.body)
}

func (f *far) aws() aws.Config {
	return aws.Config{
		Region: "eu-west-1", BaseEndpoint: &f.URL, Credentials: credentials.NewStaticCredentialsProvider("id", "secret", ""),
		// For the bare SDK. Its own client closes connections beyond ten.
		HTTPClient: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 256, WriteBufferSize: 32 << 10}},
	}
}

// BenchmarkFar compares what this package publishes in a second to a destination 15 ms away, which
// it does not know, with what the bare SDK sends with 16 and with 64 requests in flight. The three
// take turns. An operation is a round of all three.
func BenchmarkFar(b *testing.B) {
	for _, d := range []struct {
		name        string
		service     publish.Service
		destination publish.Destination
	}{
		{"SQS", publish.SQS, publish.Destination{SQS: "https://sqs.eu-west-1.amazonaws.com/1/t"}},
		{"SNS", publish.SNS, publish.Destination{SNS: "arn:aws:sns:eu-west-1:1:t"}},
		{"FIFO", publish.SQS, publish.Destination{SQS: "https://sqs.eu-west-1.amazonaws.com/1/t.fifo"}},
	} {
		b.Run(d.name, func(b *testing.B) {
			f := newFar(b, d.service, 15*time.Millisecond)
			const round = 4 * time.Second
			var bare16, bare64, ours []float64
			for b.Loop() {
				bare16 = append(bare16, bareFar(b, f, d.service, 16, round))
				bare64 = append(bare64, bareFar(b, f, d.service, 64, round))
				ours = append(ours, publishFar(b, f, d.destination, round))
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(middle(bare16), "bare16/s")
			b.ReportMetric(middle(bare64), "bare64/s")
			b.ReportMetric(middle(ours), "ours/s")
			b.ReportMetric(middle(ours)/middle(bare16), "of-bare16")
			b.ReportMetric(middle(ours)/middle(bare64), "of-bare64")
			b.Logf("bare 16 %.0f\nbare 64 %.0f\nours %.0f", bare16, bare64, ours)
		})
	}
}

func middle(all []float64) float64 {
	all = slices.Sorted(slices.Values(all))
	return all[len(all)/2]
}

// bareFar returns the events in a second of the bare SDK.
func bareFar(b *testing.B, far *far, service publish.Service, requests int, round time.Duration) float64 {
	var send func() error
	if service == publish.SNS {
		send = bareSNS(b, far.aws(), fixture{destination: publish.Destination{SNS: "arn:aws:sns:eu-west-1:1:t"}})
	} else {
		send = bareSQS(b, far.aws(), fixture{queue: "https://sqs.eu-west-1.amazonaws.com/1/t"},
			func(o *sqs.Options) { o.DisableMessageChecksumValidation = true })
	}
	var sent atomic.Int64
	var wg sync.WaitGroup
	began := time.Now()
	for range requests {
		wg.Go(func() {
			for time.Since(began) < round {
				if err := send(); err != nil {
					b.Error(err)
					return
				}
				sent.Add(10)
			}
		})
	}
	wg.Wait()
	return float64(sent.Load()) / time.Since(began).Seconds()
}

// publishFar returns the events in a second of a new publisher with four batches of a topic.
func publishFar(b *testing.B, far *far, d publish.Destination, round time.Duration) float64 {
	cfg := far.aws()
	cfg.HTTPClient = nil
	p, err := publish.New(publish.Config{AWS: cfg, Topics: map[string]publish.Destination{"t": d}})
	require.NoError(b, err)
	ctx, cancel := context.WithTimeout(b.Context(), round)
	defer cancel()
	var sent atomic.Int64
	var limit atomic.Int64
	var wg sync.WaitGroup
	began := time.Now()
	for batch := range 4 {
		wg.Go(func() {
			pages := make(chan []relay.Event)
			page := benchEvents()[:250]
			for i := range page {
				page[i].Key = fmt.Sprint("key-", batch, "-", i)
			}
			go func() {
				defer close(pages)
				for {
					select {
					case pages <- page:
					case <-ctx.Done():
						return
					}
				}
			}()
			_, err := p.Publish(ctx, publish.Request{
				Topic: "t", Events: pages, Report: func(o []relay.Outcome) { sent.Add(int64(len(o))) },
				Answered: func(a relay.Answer) { limit.Store(int64(a.Limit)) },
			})
			if err != nil && ctx.Err() == nil {
				b.Error(err)
			}
		})
	}
	wg.Wait()
	elapsed := time.Since(began)
	b.Logf("limit %d", limit.Load())
	return float64(sent.Load()) / elapsed.Seconds()
}
