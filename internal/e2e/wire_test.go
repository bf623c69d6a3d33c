package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/testenv"
)

// wire is an SQS that keeps no message. It notes each event that arrives, and when. So a test sees what a
// queue hides: an event that a FIFO queue recognises as sent before.
type wire struct {
	t   *testing.T
	url string
	// delay is the time between a request and its answer.
	delay time.Duration

	mu       sync.Mutex
	arrivals map[string][]arrival              // by topic
	refusals map[string]func(body string) fate // by topic
}

// arrival is an event that reached the wire and was accepted.
type arrival struct {
	body  string
	at    time.Time
	again bool // the wire has had it before
}

// fate is the answer to an event: the zero value accepts it.
type fate struct {
	code  string
	whole bool // the answer is to the whole request
}

func newWire(t *testing.T) *wire {
	t.Helper()
	w := &wire{t: t, delay: 3 * time.Millisecond, arrivals: map[string][]arrival{}, refusals: map[string]func(string) fate{}}
	server := httptest.NewServer(w)
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	w.url = server.URL
	return w
}

// outbox routes topics t0, t1 and so on to FIFO queues of the wire. more are further lines of the configuration.
func (w *wire) outbox(topics int, more ...string) *outbox {
	w.t.Helper()
	config := "topics:\n"
	for i := range topics {
		config += fmt.Sprintf("  t%d: {sqs: %s}\n", i, w.queue(fmt.Sprintf("t%d.fifo", i)))
	}
	for _, line := range more {
		config += "  " + line + "\n"
	}
	o := newOutbox(w.t, config)
	o.env = append(o.env, "AWS_ENDPOINT_URL="+w.url, "AWS_REGION=eu-west-1", "AWS_ACCESS_KEY_ID=id", "AWS_SECRET_ACCESS_KEY=secret")
	return o
}

// queue is the URL of the queue of a topic; FIFO if its name ends in ".fifo".
func (w *wire) queue(name string) string { return w.url + "/1/" + name }

func (w *wire) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	if !strings.HasSuffix(r.Header.Get("X-Amz-Target"), ".SendMessageBatch") {
		_, _ = rw.Write([]byte(`{"Attributes":{}}`))
		return
	}
	var in struct {
		QueueURL string `json:"QueueUrl"`
		Entries  []struct {
			ID   string `json:"Id"`
			Body string `json:"MessageBody"`
		}
	}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		return // who asked is gone
	}
	topic := strings.TrimSuffix(path.Base(in.QueueURL), ".fifo")
	type success struct {
		ID        string `json:"Id"`
		MessageID string `json:"MessageId"`
	}
	type failure struct {
		ID          string `json:"Id"`
		Code        string
		SenderFault bool
	}
	var answer struct {
		Successful []success
		Failed     []failure
	}
	w.mu.Lock()
	refuse := w.refusals[topic]
	for _, e := range in.Entries {
		var f fate
		if refuse != nil {
			f = refuse(e.Body)
		}
		switch {
		case f.whole:
			w.mu.Unlock()
			rw.WriteHeader(http.StatusBadRequest)
			_ = json.NewEncoder(rw).Encode(map[string]string{"__type": "com.amazonaws.sqs#" + f.code, "message": "the wire refuses it"})
			return
		case f.code != "":
			answer.Failed = append(answer.Failed, failure{e.ID, f.code, true})
		default:
			w.arrivals[topic] = append(w.arrivals[topic], arrival{body: e.Body, at: time.Now()})
			answer.Successful = append(answer.Successful, success{e.ID, "m"})
		}
	}
	w.mu.Unlock()
	time.Sleep(w.delay)
	_ = json.NewEncoder(rw).Encode(answer)
}

// refuse has f decide about the events of a topic; nil accepts them again.
func (w *wire) refuse(topic string, f func(body string) fate) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.refusals[topic] = f
}

// of are the arrivals of a topic, by time.
func (w *wire) of(topic string) []arrival {
	w.mu.Lock()
	defer w.mu.Unlock()
	all, had := slices.Clone(w.arrivals[topic]), map[string]bool{}
	for i, a := range all {
		all[i].again, had[a.body] = had[a.body], true
	}
	return all
}

// repeats is how many events of a topic arrived again.
func (w *wire) repeats(topic string) (n int) {
	for _, a := range w.of(topic) {
		if a.again {
			n++
		}
	}
	return n
}

// stream writes events to topics, each tick one of each topic, until it is stopped.
type stream struct {
	o      *outbox
	topics []string
	stop   func()
	// isDead reports whether an event becomes a dead letter; nil: none does.
	isDead func(topic string, n int) bool

	mu        sync.Mutex
	committed map[string][]time.Time // by topic; of event n-1
}

// streamKeys is how many keys the events of a topic have in a stream.
const streamKeys = 64

// stream begins a stream. The bodies of a topic's events are "e-1", "e-2" and so on.
func (o *outbox) stream(every time.Duration, topics ...string) *stream {
	s := &stream{o: o, topics: topics, committed: map[string][]time.Time{}}
	over, done := make(chan struct{}), make(chan struct{})
	s.stop = sync.OnceFunc(func() {
		close(over)
		<-done
	})
	go func() {
		defer close(done)
		tick := time.NewTicker(every)
		defer tick.Stop()
		for n := 1; ; n++ {
			select {
			case <-over:
				return
			case <-tick.C:
			}
			_, err := o.db.Exec(o.t.Context(), `
			    INSERT INTO outbox.event (topic, key, type, payload)
			    SELECT topic, 'key-' || $2::int % $3::int, 'Tested', 'e-' || $2::int FROM unnest($1::text[]) topic`, topics, n, streamKeys)
			if err != nil {
				o.t.Errorf("write: %v", err)
				return
			}
			now := time.Now()
			s.mu.Lock()
			for _, topic := range topics {
				s.committed[topic] = append(s.committed[topic], now)
			}
			s.mu.Unlock()
		}
	}()
	o.t.Cleanup(s.stop)
	return s
}

// written is how many events of each topic were committed.
func (s *stream) written() int { return len(s.times(s.topics[0])) }

func (s *stream) times(topic string) []time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.committed[topic])
}

// arrived returns how long each event of a topic took from its commit to the wire. It fails the test if an
// event is missing, or came before an earlier one of its key.
func (s *stream) arrived(w *wire, topic string) (took []time.Duration) {
	s.o.t.Helper()
	committed, last := s.times(topic), map[int]int{}
	took = make([]time.Duration, len(committed))
	came := make([]bool, len(committed))
	for _, a := range w.of(topic) {
		n, isStream := numberIn(a.body, "e")
		if a.again || !isStream {
			continue
		}
		require.Less(s.o.t, last[n%streamKeys], n, "%s: an event came after a later one of its key", topic)
		last[n%streamKeys] = n
		came[n-1], took[n-1] = true, a.at.Sub(committed[n-1])
	}
	for i, came := range came {
		if s.isDead == nil || !s.isDead(topic, i+1) {
			require.True(s.o.t, came, "%s: event %d of %d is lost", topic, i+1, len(committed))
		}
	}
	return took
}

// worst is the longest time that an event of some topics took, and the topic.
func (s *stream) worst(w *wire, topics ...string) (longest time.Duration, topic string) {
	s.o.t.Helper()
	for _, name := range topics {
		if took := s.arrived(w, name); len(took) > 0 && slices.Max(took) > longest {
			longest, topic = slices.Max(took), name
		}
	}
	return longest, topic
}

func numberIn(body, prefix string) (n int, ok bool) {
	digits, ok := strings.CutPrefix(body, prefix+"-")
	n, err := strconv.Atoi(digits)
	return n, ok && err == nil
}

// eventually waits until as many different events of a topic with a prefix have arrived.
func (w *wire) eventually(topic, prefix string, n int, within time.Duration) {
	w.t.Helper()
	testenv.Eventually(w.t, within, func() error {
		came := map[string]bool{}
		for _, a := range w.of(topic) {
			if strings.HasPrefix(a.body, prefix+"-") {
				came[a.body] = true
			}
		}
		if len(came) < n {
			return fmt.Errorf("%d of %d events of %s have arrived", len(came), n, topic)
		}
		return nil
	})
}

// during waits while something goes on for a time that a test is about.
func during(d time.Duration) { <-time.After(d) }

func names(from, to int) (topics []string) {
	for i := from; i < to; i++ {
		topics = append(topics, fmt.Sprint("t", i))
	}
	return topics
}
