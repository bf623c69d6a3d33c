//go:build unix

package publish_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/sns"
	snstypes "github.com/aws/aws-sdk-go-v2/service/sns/types"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	sqstypes "github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/stretchr/testify/require"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/temporal-outbox/relay/internal/publish"
	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/testenv"
)

const benchConcurrency = 4

// BenchmarkPublish compares, on the emulator, what this package publishes in a
// second with what the bare SDK sends with the same concurrency and bodies, but
// prepared inputs. An operation is one event.
func BenchmarkPublish(b *testing.B) {
	cfg := testenv.AWS(b)
	for _, service := range []publish.Service{publish.SNS, publish.SQS} {
		b.Run(fmt.Sprintf("%s/publisher", service), func(b *testing.B) {
			f := newFixture(b, cfg, service, false)
			p, err := publish.New(publish.Config{AWS: cfg, Topics: map[string]publish.Destination{"t": f.destination}})
			require.NoError(b, err)
			events := benchEvents()
			b.ReportAllocs()
			b.ResetTimer()
			used := cpu(b)
			pages := make(chan []relay.Event)
			go func() {
				defer close(pages)
				for n := 0; n < b.N; n += len(events) {
					pages <- events[:min(len(events), b.N-n)]
				}
			}()
			result, err := p.Publish(b.Context(), publish.Request{
				Topic: "t", Concurrency: benchConcurrency, Events: pages, Report: func([]relay.Outcome) {},
			})
			require.NoError(b, err)
			require.Equal(b, b.N, result.Acknowledged)
			report(b, used)
		})
		b.Run(fmt.Sprintf("%s/bare", service), func(b *testing.B) {
			f := newFixture(b, cfg, service, false)
			send := bareSNS(b, cfg, f)
			if service == publish.SQS {
				send = bareSQS(b, cfg, f)
			}
			b.ReportAllocs()
			b.ResetTimer()
			used := cpu(b)
			var wg sync.WaitGroup
			for range benchConcurrency {
				wg.Go(func() {
					for n := 0; n < b.N/benchConcurrency; n += 10 {
						if err := send(); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			report(b, used)
		})
	}
}

// cpu is what this process has used so far. Unlike time, it means something on a
// machine that the emulator and others share.
func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	require.NoError(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func report(b *testing.B, before time.Duration) {
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
	b.ReportMetric(float64((cpu(b)-before).Nanoseconds())/1000/float64(b.N), "cpu-µs/event")
}

func benchEvents() []relay.Event {
	events := manyEvents(500)
	for i := range events {
		events[i].Payload = strings.Repeat("0123456789abcdef", 32)
		events[i].Attributes = nil
	}
	return events
}

func bareSNS(b *testing.B, cfg aws.Config, f fixture) func() error {
	client := sns.NewFromConfig(cfg)
	p, err := publish.New(publish.Config{AWS: cfg, Topics: map[string]publish.Destination{"t": f.destination}})
	require.NoError(b, err)
	route, err := p.Resolve(b.Context(), "t")
	require.NoError(b, err)
	in := &sns.PublishBatchInput{TopicArn: &route.Address}
	for i, ev := range benchEvents()[:10] {
		in.PublishBatchRequestEntries = append(in.PublishBatchRequestEntries, snstypes.PublishBatchRequestEntry{
			Id: aws.String(fmt.Sprint(i)), Message: &ev.Payload,
			MessageAttributes: map[string]snstypes.MessageAttributeValue{
				"event_id":     {DataType: aws.String("String"), StringValue: &ev.EventID},
				"event_type":   {DataType: aws.String("String"), StringValue: &ev.Type},
				"content_type": {DataType: aws.String("String"), StringValue: &ev.ContentType},
			},
		})
	}
	return func() error {
		_, err := client.PublishBatch(b.Context(), in)
		return err
	}
}

func bareSQS(b *testing.B, cfg aws.Config, f fixture, change ...func(*sqs.Options)) func() error {
	return bareEntries(b, cfg, f, 10, change...)
}

// bareEntries sends requests with so many entries.
func bareEntries(b *testing.B, cfg aws.Config, f fixture, entries int, change ...func(*sqs.Options)) func() error {
	client := sqs.NewFromConfig(cfg, change...)
	in := &sqs.SendMessageBatchInput{QueueUrl: &f.queue}
	for i, ev := range benchEvents()[:entries] {
		in.Entries = append(in.Entries, sqstypes.SendMessageBatchRequestEntry{
			Id: aws.String(fmt.Sprint(i)), MessageBody: &ev.Payload,
			MessageAttributes: map[string]sqstypes.MessageAttributeValue{
				"event_id":     {DataType: aws.String("String"), StringValue: &ev.EventID},
				"event_type":   {DataType: aws.String("String"), StringValue: &ev.Type},
				"content_type": {DataType: aws.String("String"), StringValue: &ev.ContentType},
			},
		})
	}
	return func() error {
		_, err := client.SendMessageBatch(context.Background(), in)
		return err
	}
}

// BenchmarkCPU shows what an event costs this process alone: the requests go no
// further than the SDK's HTTP client. An operation is one event. Traced, every
// event has a trace, and every request a span that is exported to nowhere.
func BenchmarkCPU(b *testing.B) {
	for _, service := range []publish.Service{publish.SNS, publish.SQS} {
		for _, ordered := range []bool{false, true} {
			b.Run(fmt.Sprintf("%s fifo=%t", service, ordered), func(b *testing.B) { benchmarkCPU(b, service, ordered, nil) })
		}
		b.Run(fmt.Sprintf("%s traced", service), func(b *testing.B) {
			provider := sdktrace.NewTracerProvider(sdktrace.WithBatcher(tracetest.NewNoopExporter()))
			defer func() { _ = provider.Shutdown(context.Background()) }()
			benchmarkCPU(b, service, false, provider)
		})
	}
}

func benchmarkCPU(b *testing.B, service publish.Service, ordered bool, traces trace.TracerProvider) {
	suffix := ""
	if ordered {
		suffix = ".fifo"
	}
	cfg := aws.Config{Region: "eu-west-1", Credentials: credentials.NewStaticCredentialsProvider("id", "secret", ""), HTTPClient: yes{}}
	d := publish.Destination{SQS: "https://sqs.eu-west-1.amazonaws.com/1/t" + suffix}
	if service == publish.SNS {
		d = publish.Destination{SNS: "arn:aws:sns:eu-west-1:1:t" + suffix}
	}
	p, err := publish.New(publish.Config{AWS: cfg, Topics: map[string]publish.Destination{"t": d}, Traces: traces})
	require.NoError(b, err)
	events := benchEvents()
	for i := range events {
		events[i].Key = fmt.Sprint("key-", i%100)
		if traces != nil {
			events[i].Attributes = map[string]string{"traceparent": producersTrace}
		}
	}
	b.ReportAllocs()
	b.ResetTimer()
	used := cpu(b)
	pages := make(chan []relay.Event)
	go func() {
		defer close(pages)
		for n := 0; n < b.N; n += len(events) {
			pages <- events[:min(len(events), b.N-n)]
		}
	}()
	result, err := p.Publish(b.Context(), publish.Request{
		Topic: "t", Concurrency: benchConcurrency, Events: pages, Report: func([]relay.Outcome) {},
	})
	require.NoError(b, err)
	require.Equal(b, b.N, result.Acknowledged)
	report(b, used)
}

// yes is an AWS that accepts everything.
type yes struct{}

func (yes) Do(req *http.Request) (*http.Response, error) {
	action := make([]byte, len("Action=GetTopicAttributes"))
	_, _ = io.ReadFull(req.Body, action)
	_, _ = io.Copy(io.Discard, req.Body)
	body := yesSQS
	switch {
	case string(action) == "Action=GetTopicAttributes":
		body = `<GetTopicAttributesResponse><GetTopicAttributesResult/></GetTopicAttributesResponse>`
	case strings.HasPrefix(req.URL.Host, "sns."):
		body = yesSNS
	}
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body)), Request: req}, nil
}

var yesSQS, yesSNS = func() (string, string) {
	var j, x strings.Builder
	for i := range 10 {
		if i > 0 {
			j.WriteByte(',')
		}
		fmt.Fprintf(&j, `{"Id":"%d","MessageId":"b7ad6b71-69203331","MD5OfMessageBody":"e3cd8df5","MD5OfMessageAttributes":"6e3e"}`, i)
		fmt.Fprintf(&x, `<member><Id>%d</Id><MessageId>b7ad6b71-69203331</MessageId></member>`, i)
	}
	return `{"Successful":[` + j.String() + `],"Failed":[]}`,
		`<PublishBatchResponse><PublishBatchResult><Successful>` + x.String() + `</Successful><Failed/></PublishBatchResult></PublishBatchResponse>`
}()
