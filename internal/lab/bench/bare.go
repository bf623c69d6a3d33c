package bench

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sns"
	snstypes "github.com/aws/aws-sdk-go-v2/service/sns/types"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/temporal-outbox/relay/workflows"
)

// requestsOfOneTopic is how many requests the relay has under way for one topic:
// its share of the slots, a quarter, times the requests of a batch.
const requestsOfOneTopic = workflows.DefaultSlots / 4 * workflows.DefaultConcurrency

// entriesPerRequest is AWS's limit, and the size of payloads that of the drain.
const (
	entriesPerRequest = 10
	payloadBytes      = 512
)

// requestBytes is what the messages of one request may have together. AWS's limit is 1 MiB,
// with the attributes.
const requestBytes = 1<<20 - 8<<10

// bareSpec is what the bare SDK sends. The zero value of a field is the default.
type bareSpec struct {
	addresses []string // URLs or ARNs; required
	sns       bool
	keys      int // of a FIFO destination; 0: it is a standard one
	payload   int // default 512
	events    int // required
	requests  int // at once; default 16
	entries   int // of a request; default 10, or fewer if the payloads are large
	// perSecond paces the requests. 0: as fast as they go.
	perSecond int
}

func (s bareSpec) withDefaults() bareSpec {
	if s.payload == 0 {
		s.payload = payloadBytes
	}
	if s.requests == 0 {
		s.requests = requestsOfOneTopic
	}
	if s.entries == 0 {
		s.entries = entriesOf(s.payload)
	}
	return s
}

// entriesOf is how many events with such payloads a request has.
func entriesOf(payload int) int { return max(1, min(entriesPerRequest, requestBytes/payload)) }

// bareResult is what the bare SDK did.
type bareResult struct {
	CeilingResult
	waits []time.Duration // for the answer to each paced request
}

// bareClient are the SDK's clients of one endpoint.
type bareClient struct {
	sqs *sqs.Client
	sns *sns.Client
}

// bare sends events with the bare SDK. The inputs are made beforehand and used again, so that
// the rate is that of the SDK, the connection and the destination. The SDK's processor time is
// that of this process.
func (e *environment) bare(ctx context.Context, client bareClient, spec bareSpec) (bareResult, error) {
	spec = spec.withDefaults()
	runtime.GC() // what was collected before is no cost of the SDK
	requests := (spec.events + spec.entries - 1) / spec.entries
	result := bareResult{waits: make([]time.Duration, requests)}
	var next atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	cpu, began := readCPU(), time.Now()
	for g := range spec.requests {
		group.Go(func() error {
			send := client.sender(spec, g)
			for {
				i := int(next.Add(1)) - 1
				if i >= requests {
					return nil
				}
				if spec.perSecond > 0 {
					due := began.Add(time.Duration(i*spec.entries) * time.Second / time.Duration(spec.perSecond))
					if err := sleep(ctx, time.Until(due)); err != nil {
						return err
					}
				}
				sent := time.Now()
				if err := send(ctx, spec.addresses[i%len(spec.addresses)]); err != nil {
					return fmt.Errorf("send with the bare SDK: %w", err)
				}
				result.waits[i] = time.Since(sent)
			}
		})
	}
	if err := group.Wait(); err != nil {
		return bareResult{}, err
	}
	result.CeilingResult = CeilingResult{EventsPerSecond: rate(requests*spec.entries, time.Since(began)), CPUSeconds: readCPU().since(cpu)}
	e.say("  the bare SDK sends %.0f events/s with %d requests at once", result.EventsPerSecond, spec.requests)
	return result, nil
}

var errEntryFailed = errors.New("an entry failed")

// sender is one goroutine's way to send. On a FIFO destination it has keys of its own, so that
// no two requests with a key are under way at once.
func (c bareClient) sender(spec bareSpec, goroutine int) func(ctx context.Context, address string) error {
	text := filler(spec.payload)
	ids, groups := make([]string, spec.entries), make([]string, spec.entries)
	next, each := 0, max(1, spec.keys/spec.requests)
	number := func() {
		for i := range spec.entries {
			ids[i] = strconv.Itoa(goroutine) + "-" + strconv.Itoa(next)
			groups[i] = "key-" + strconv.Itoa(goroutine*each+next%each)
			next++
		}
	}
	if spec.sns {
		in := &sns.PublishBatchInput{}
		for i := range spec.entries {
			entry := bareSNSEntry(i, text)
			if spec.keys > 0 {
				entry.MessageDeduplicationId, entry.MessageGroupId = &ids[i], &groups[i]
			}
			in.PublishBatchRequestEntries = append(in.PublishBatchRequestEntries, entry)
		}
		return func(ctx context.Context, address string) error {
			number()
			in.TopicArn = &address
			out, err := c.sns.PublishBatch(ctx, in)
			if err == nil && len(out.Failed) > 0 {
				err = errEntryFailed
			}
			return err
		}
	}
	in := &sqs.SendMessageBatchInput{}
	for i := range spec.entries {
		entry := bareEntry(i, text)
		if spec.keys > 0 {
			entry.MessageDeduplicationId, entry.MessageGroupId = &ids[i], &groups[i]
		}
		in.Entries = append(in.Entries, entry)
	}
	return func(ctx context.Context, address string) error {
		number()
		in.QueueUrl = &address
		out, err := c.sqs.SendMessageBatch(ctx, in)
		if err == nil && len(out.Failed) > 0 {
			err = errEntryFailed
		}
		return err
	}
}

// ceiling sends events with the bare SDK into a fresh queue of the emulator.
func (e *environment) ceiling(ctx context.Context, events int) (CeilingResult, error) {
	queue, err := createQueue(ctx, e.sqs, fmt.Sprintf("%s-ceiling-%d", e.token, time.Now().UnixNano()))
	if err != nil {
		return CeilingResult{}, err
	}
	defer func() { _ = e.deleteQueue(context.WithoutCancel(ctx), queue) }()
	got, err := e.bare(ctx, bareClient{sqs: e.sqs}, bareSpec{addresses: []string{queue}, events: events})
	return got.CeilingResult, err
}

// bareAttributes are those that the relay sends with the drain's events.
func bareAttributes() map[string]string {
	return map[string]string{
		"event_id": uuid.NewString(), "event_type": "BenchEvent", "content_type": "application/json", "traceparent": traceparent,
	}
}

var stringType = "String"

// bareEntry is a message of the queue. Its attributes are those of the relay.
func bareEntry(i int, body string) types.SendMessageBatchRequestEntry {
	id, header := strconv.Itoa(i), traceHeader
	attributes := map[string]types.MessageAttributeValue{}
	for name, value := range bareAttributes() {
		attributes[name] = types.MessageAttributeValue{DataType: &stringType, StringValue: &value}
	}
	return types.SendMessageBatchRequestEntry{
		Id: &id, MessageBody: &body, MessageAttributes: attributes,
		MessageSystemAttributes: map[string]types.MessageSystemAttributeValue{
			"AWSTraceHeader": {DataType: &stringType, StringValue: &header},
		},
	}
}

// bareSNSEntry is a message of the topic. Its attributes are those of the relay.
func bareSNSEntry(i int, body string) snstypes.PublishBatchRequestEntry {
	id := strconv.Itoa(i)
	attributes := map[string]snstypes.MessageAttributeValue{}
	for name, value := range bareAttributes() {
		attributes[name] = snstypes.MessageAttributeValue{DataType: &stringType, StringValue: &value}
	}
	return snstypes.PublishBatchRequestEntry{Id: &id, Message: &body, MessageAttributes: attributes}
}

// filler makes a payload of the drain so many bytes long, together with the marker. A large one
// cannot be compressed: PostgreSQL would store it in a few bytes.
func filler(payload int) string {
	const frame = len(`{"marker":"bench-0000000-","pad":""}`)
	n := max(1, payload-frame)
	if payload <= 2000 { // PostgreSQL compresses larger values only
		return strings.Repeat("x", n)
	}
	var text strings.Builder
	for text.Len() < n {
		text.WriteString(strings.ReplaceAll(uuid.NewString(), "-", ""))
	}
	return text.String()[:n]
}

func (e *environment) deleteQueue(ctx context.Context, queue string) error {
	if _, err := e.sqs.DeleteQueue(ctx, &sqs.DeleteQueueInput{QueueUrl: &queue}); err != nil {
		return fmt.Errorf("delete queue %s: %w", queue, err)
	}
	return nil
}
