package activities_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"runtime/debug"
	"runtime/metrics"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/log"
	"go.temporal.io/sdk/testsuite"

	"github.com/temporal-outbox/relay/activities"
	"github.com/temporal-outbox/relay/internal/postgres"
	"github.com/temporal-outbox/relay/internal/publish"
	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/testenv"
)

// accepts answers a batch request of SQS with yes. It counts the entries as it reads them, and keeps
// nothing: payloads have their quotes escaped, so they have no such text.
func accepts(w http.ResponseWriter, r *http.Request) {
	if !strings.HasSuffix(r.Header.Get("X-Amz-Target"), ".SendMessageBatch") {
		_, _ = io.WriteString(w, `{"Attributes":{}}`)
		return
	}
	const entry = `"MessageBody":`
	buffer := buffers.Get().(*[1 << 16]byte)
	defer buffers.Put(buffer)
	entries, kept := 0, 0
	for {
		n, err := r.Body.Read(buffer[kept:])
		read := buffer[:kept+n]
		entries += bytes.Count(read, []byte(entry))
		kept = copy(buffer[:], read[max(0, len(read)-len(entry)+1):]) // a part of an entry, at most
		if err == io.EOF {
			break
		}
		if err != nil {
			return
		}
	}
	var answer strings.Builder
	answer.WriteString(`{"Successful":[`)
	for i := range entries {
		if i > 0 {
			answer.WriteByte(',')
		}
		fmt.Fprintf(&answer, `{"Id":"%d","MessageId":"b7ad6b71-69203331","MD5OfMessageBody":"e3cd8df5"}`, i)
	}
	answer.WriteString(`],"Failed":[]}`)
	_, _ = io.WriteString(w, answer.String())
}

var buffers = sync.Pool{New: func() any { return new([1 << 16]byte) }}

// payload is JSON of a size, with the quotes that escaping has to find. It does not compress well.
func payload(bytes int) string {
	var b strings.Builder
	for i := uint64(88172645463325252); b.Len() < bytes-50; {
		i ^= i << 13
		i ^= i >> 7
		i ^= i << 17
		fmt.Fprintf(&b, `,"%x":"%d"`, i>>40, i)
	}
	return `{"a":1` + b.String() + `}`
}

// rig is the relay without Temporal: the activities, the store and the publisher.
type rig struct {
	t      testing.TB
	pool   *pgxpool.Pool
	store  *postgres.Store
	acts   *activities.Activities
	suite  testsuite.WorkflowTestSuite
	topics []string
}

// newRig has so many topics, which go to a queue each at the endpoint.
func newRig(t testing.TB, endpoint string, topics int) *rig {
	url := testenv.DatabaseURL(t)
	r := &rig{t: t}
	r.suite.SetLogger(log.NewStructuredLogger(slog.New(slog.DiscardHandler)))
	var err error
	r.pool, err = pgxpool.New(t.Context(), url)
	require.NoError(t, err)
	t.Cleanup(r.pool.Close)
	r.store, err = postgres.Open(t.Context(), postgres.Config{URL: url, MaxConns: 16})
	require.NoError(t, err)
	t.Cleanup(r.store.Close)
	to := map[string]publish.Destination{}
	for i := range topics {
		topic := fmt.Sprint("topic-", i)
		r.topics = append(r.topics, topic)
		to[topic] = publish.Destination{SQS: endpoint + "/1/" + topic}
	}
	require.NoError(t, r.store.EnsureLanes(t.Context(), r.topics))
	p, err := publish.New(publish.Config{Topics: to, AWS: aws.Config{
		Region: "eu-west-1", Credentials: credentials.NewStaticCredentialsProvider("id", "secret", ""), BaseEndpoint: &endpoint,
	}})
	require.NoError(t, err)
	r.acts, err = activities.New(activities.Config{Store: r.store, Publisher: p})
	require.NoError(t, err)
	return r
}

// fill writes events of a size to each topic.
func (r *rig) fill(events, bytes int) {
	for _, topic := range r.topics {
		_, err := r.pool.Exec(r.t.Context(), `
			INSERT INTO outbox.event (topic, key, type, payload)
			SELECT $1, 'key-' || n % 1000, 'Made', $3 || n FROM generate_series(1, $2::int) n`, topic, events, payload(bytes))
		require.NoError(r.t, err)
	}
}

// drain claims and publishes until nothing is pending, and returns how many events were published.
func (r *rig) drain(ctx context.Context) int {
	var published atomic.Int64
	var running sync.WaitGroup
	slots := make(chan struct{}, 16)
	for n := 0; ctx.Err() == nil; n++ {
		batches, err := r.store.Claim(ctx, relay.ClaimRequest{
			By: fmt.Sprint("rig-", n), Batches: cap(slots) - len(slots), PerTopic: 4, Routed: r.topics,
		})
		require.NoError(r.t, err)
		if len(batches) == 0 && len(slots) == 0 {
			break
		}
		for _, b := range batches {
			slots <- struct{}{}
			running.Go(func() {
				defer func() { <-slots }()
				e := r.suite.NewTestActivityEnvironment()
				e.RegisterActivity(r.acts)
				v, err := e.ExecuteActivity(r.acts.PublishBatch, activities.PublishRequest{Batch: b, Concurrency: 4, For: 5 * time.Second})
				var result activities.PublishResult
				if err == nil {
					err = v.Get(&result)
				}
				if err != nil {
					r.t.Error(err)
				}
				published.Add(int64(result.Published))
			})
		}
		if len(batches) == 0 {
			time.Sleep(2 * time.Millisecond)
		}
	}
	running.Wait()
	return int(published.Load())
}

// bare sends as many events with the bare SDK, in full requests, with so many requests in flight.
func bare(t testing.TB, endpoint string, events, bytes, inFlight int) {
	client := sqs.New(sqs.Options{
		Region: "eu-west-1", Credentials: credentials.NewStaticCredentialsProvider("id", "secret", ""), BaseEndpoint: &endpoint,
		DisableMessageChecksumValidation: true,
		HTTPClient: awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) {
			t.MaxIdleConns, t.MaxIdleConnsPerHost = 512, 128
		}),
	})
	body, kind := payload(bytes), "String"
	perRequest := max(1, min(10, (1<<20)/(len(body)+300)))
	var left atomic.Int64
	left.Store(int64(events))
	var sending sync.WaitGroup
	for range inFlight {
		sending.Go(func() {
			in := &sqs.SendMessageBatchInput{QueueUrl: aws.String(endpoint + "/1/bare")}
			for i := range perRequest {
				attributes := map[string]types.MessageAttributeValue{}
				for name, value := range map[string]string{"event_id": "b7ad6b71-6920-3331-b7ad-6b7169203331", "event_type": "Made", "content_type": "application/json"} {
					attributes[name] = types.MessageAttributeValue{DataType: &kind, StringValue: &value}
				}
				in.Entries = append(in.Entries, types.SendMessageBatchRequestEntry{Id: aws.String(strconv.Itoa(i)), MessageBody: &body, MessageAttributes: attributes})
			}
			for left.Add(-int64(perRequest)) > -int64(perRequest) {
				out, err := client.SendMessageBatch(t.Context(), in)
				if err != nil || len(out.Successful) != perRequest {
					t.Errorf("send with the bare SDK: %v", err)
					return
				}
			}
		})
	}
	sending.Wait()
}

// peakHeap samples the bytes of all objects, of which some are garbage, until the function that it
// returns is called. That returns the most that was seen, in MiB.
func peakHeap() (end func() float64) {
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	var most uint64
	over := make(chan struct{})
	var sampling sync.WaitGroup
	sampling.Go(func() {
		ticker := time.NewTicker(time.Millisecond)
		defer ticker.Stop()
		for {
			select {
			case <-over:
				return
			case <-ticker.C:
			}
			metrics.Read(sample)
			most = max(most, sample[0].Value.Uint64())
		}
	})
	return func() float64 {
		close(over)
		sampling.Wait()
		return float64(most) / (1 << 20)
	}
}

// pending is how many events of a topic are not settled.
func (r *rig) pending(topic string) (n int) {
	require.NoError(r.t, r.pool.QueryRow(r.t.Context(), `SELECT count(*) FROM outbox.pending WHERE topic = $1`, topic).Scan(&n))
	return n
}

// Sixteen batches have 100 MiB of payloads to send, and 64 requests at once.
func TestPayloads_OfFourTopicsDrainInBoundedMemory(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		time.Sleep(5 * time.Millisecond) // as far as AWS is away
		accepts(w, req)
	}))
	defer server.Close()
	r := newRig(t, server.URL, 4)
	const events, bytes = 125, 200 << 10
	r.fill(events, bytes)
	debug.FreeOSMemory()
	before := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(before)
	peak := peakHeap()
	require.Equal(t, 4*events, r.drain(t.Context()))
	most := peak() - float64(before[0].Value.Uint64())/(1<<20)
	t.Logf("%.0f MiB at most", most)
	// The budget, the destination's own buffers, and as much garbage again.
	require.Less(t, most, 100.0)
}

func TestPayloads_OfADestinationThatHangsLeaveOthersTheBudget(t *testing.T) {
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		begin := make([]byte, 100)
		n, _ := io.ReadFull(req.Body, begin)
		req.Body = io.NopCloser(io.MultiReader(bytes.NewReader(begin[:n]), req.Body))
		if bytes.Contains(begin, []byte("topic-0")) && bytes.Contains(begin, []byte("Entries")) {
			<-release
		}
		accepts(w, req)
	}))
	defer server.Close()
	r := newRig(t, server.URL, 2)
	const events, size = 100, 200 << 10
	r.fill(events, size)
	drained, began := make(chan int), time.Now()
	go func() { drained <- r.drain(t.Context()) }()
	testenv.Eventually(t, 10*time.Second, func() error { // before the requests of the other time out
		if n := r.pending("topic-1"); n > 0 {
			return fmt.Errorf("%d events wait behind a topic that hangs", n)
		}
		return nil
	})
	require.Equal(t, events, r.pending("topic-0"))
	t.Logf("the others took %v", time.Since(began))
	close(release)
	require.Equal(t, 2*events, <-drained)
}

// peakRSS is the most memory that this process had since resetRSS, in MiB.
func peakRSS(t testing.TB) float64 {
	file, err := os.Open("/proc/self/status")
	require.NoError(t, err)
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if kib, is := strings.CutPrefix(lines.Text(), "VmHWM:"); is {
			n, err := strconv.ParseFloat(strings.Fields(kib)[0], 64)
			require.NoError(t, err)
			return n / 1024
		}
	}
	return 0
}

func resetRSS(t testing.TB) {
	debug.FreeOSMemory()
	require.NoError(t, os.WriteFile("/proc/self/clear_refs", []byte("5"), 0))
}

const destinationProcess = "OUTBOX_TEST_DESTINATION"

// TestDestination_OfABenchmark is a process of its own, so that the memory that is measured is the relay's.
func TestDestination_OfABenchmark(t *testing.T) {
	if os.Getenv(destinationProcess) == "" {
		t.Skip("it is the destination of a benchmark")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	fmt.Printf("endpoint http://%s\n", l.Addr())
	server := &http.Server{Handler: http.HandlerFunc(accepts)}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	_ = server.Serve(l)
}

func startDestination(t testing.TB) (endpoint string) {
	cmd := exec.Command(os.Args[0], "-test.run=^TestDestination_OfABenchmark$", "-test.v")
	cmd.Env = append(os.Environ(), destinationProcess+"=1")
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if endpoint, is := strings.CutPrefix(lines.Text(), "endpoint "); is {
			return endpoint
		}
	}
	require.Fail(t, "the destination did not start")
	return ""
}

// BenchmarkPayloads compares drains with the bare SDK, by the size of payloads and the number of
// topics, in turn: -benchtime 5x gives five pairs. It reports the median, the lowest and the highest
// ratio of the two rates, and the most memory that this process had in a drain.
func BenchmarkPayloads(b *testing.B) {
	for _, topics := range []int{1, 4} {
		for _, size := range []struct{ bytes, events int }{{512, 20000}, {8 << 10, 8000}, {64 << 10, 1600}, {200 << 10, 600}} {
			b.Run(fmt.Sprintf("bytes=%d/topics=%d", size.bytes, topics), func(b *testing.B) {
				endpoint := startDestination(b)
				r := newRig(b, endpoint, topics)
				bare(b, endpoint, size.events/4, size.bytes, 16*topics) // warm
				var ratios, rates []float64
				var peak float64
				for range b.N {
					r.fill(size.events/topics, size.bytes)
					began := time.Now()
					bare(b, endpoint, size.events, size.bytes, 16*topics)
					ceiling := float64(size.events) / time.Since(began).Seconds()
					resetRSS(b)
					began = time.Now()
					require.Equal(b, size.events, r.drain(b.Context()))
					rate := float64(size.events) / time.Since(began).Seconds()
					ratios, rates, peak = append(ratios, rate/ceiling), append(rates, rate), max(peak, peakRSS(b))
				}
				slices.Sort(ratios)
				slices.Sort(rates)
				b.ReportMetric(rates[len(rates)/2], "events/s")
				b.ReportMetric(ratios[len(ratios)/2], "ratio")
				b.ReportMetric(ratios[0], "lowest")
				b.ReportMetric(ratios[len(ratios)-1], "highest")
				b.ReportMetric(peak, "MiB")
			})
		}
	}
}
