package destinationtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"

	"github.com/temporal-outbox/relay/internal/publish/destination"
	"github.com/temporal-outbox/relay/internal/publish/detach"
	"github.com/temporal-outbox/relay/internal/publish/errorcode"
	"github.com/temporal-outbox/relay/internal/relay"
)

func TestRules_AcceptADestinationThatKeepsThem(t *testing.T) {
	Run(t, func(*testing.T) Fixture { return newMemory("").fixture() })
}

func TestRules_FailADestinationThatBreaksOne(t *testing.T) {
	broken := map[string]bool{}
	for fault, rule := range map[string]string{
		"look-up without a limit":            "LookUpFindsTheAddressAndTheLimit",
		"look-up finds everything":           "LookUpSaysThatADestinationIsMissing",
		"open asks the service":              "OpenSendsNothing",
		"may publish publishes":              "MayPublishPublishesNothing",
		"properties without order":           "PropertiesAreThoseOfTheRoute",
		"span without a name":                "SpanNamesTheDestination",
		"check accepts everything":           "CheckCountsAndRefusesWhatIsTooLarge",
		"answer without the last event":      "SendGivesEachEventOneOutcome",
		"one message id":                     "SendGivesEachEventOneOutcome",
		"limit is smaller than declared":     "SendTakesAFullRequest",
		"stack instead of a queue":           "SendKeepsTheOrder",
		"sender keeps its outcomes":          "SendForgetsTheRequestBefore",
		"one request only":                   "SendersWorkSideBySide",
		"refused event is accepted":          "ARefusedEventHarmsNoOther",
		"refusal stops the rest":             "ARefusedEventHarmsNoOther",
		"refused request arrives":            "ARefusedEventHarmsNoOther",
		"missing destination is a retry":     "AMissingDestinationFailsTheRequest",
		"silence counts as not delivered":    "SilenceIsUncertain",
		"lost answer counts as not arrived":  "ALostAnswerIsUncertain",
		"deadline of the lease is not asked": "NothingIsSentAfterTheDeadline",
	} {
		broken[rule] = true
		t.Run(fault, func(t *testing.T) {
			require.True(t, fails(t, rule, newMemory(fault).fixture()), "%s passes", rule)
		})
	}
	for _, r := range Rules {
		require.True(t, broken[r.Name], "no fault breaks the rule %s", r.Name)
	}
}

// recorder is a T that notes whether a rule has failed.
type recorder struct {
	ctx    context.Context
	failed bool
}

func (r *recorder) Errorf(string, ...any)    { r.failed = true }
func (r *recorder) FailNow()                 { r.failed = true; runtime.Goexit() }
func (r *recorder) Context() context.Context { return r.ctx }

func fails(t *testing.T, name string, f Fixture) bool {
	for _, rule := range Rules {
		if rule.Name == name {
			r := &recorder{ctx: t.Context()}
			var checking sync.WaitGroup
			checking.Go(func() { rule.Check(r, f) })
			checking.Wait()
			return r.failed
		}
	}
	require.Fail(t, "there is no rule", name)
	return false
}

const (
	memoryName  = "orders"
	memoryLimit = 4096
)

// memory is a service with one destination. It is its own client, driver and destination, and
// has one fault.
type memory struct {
	fault  string
	client Client

	mu      *sync.Mutex
	arrived *[]string
	begun   *int // requests
	sent    *int // messages
}

func newMemory(fault string) *memory {
	m := &memory{fault: fault, mu: &sync.Mutex{}, arrived: &[]string{}, sent: new(int), begun: new(int)}
	m.client = m
	return m
}

func (m *memory) fixture() Fixture {
	return Fixture{
		Client: m,
		Driver: func(c Client) destination.Driver {
			with := *m
			with.client = detach.Client{HTTPClient: c}
			if m.fault == "deadline of the lease is not asked" {
				with.client = c
			}
			return &with
		},
		Route:          destination.Route{Topic: "orders", Name: memoryName, Ordered: true},
		Missing:        destination.Route{Topic: "orders", Name: "gone", Ordered: true},
		MissingAddress: "gone",
		Refused:        relay.Event{EventID: "refused", Payload: "refused"},
		Arrived: func(t T, n int) []string {
			m.mu.Lock()
			defer m.mu.Unlock()
			require.GreaterOrEqual(t, len(*m.arrived), n)
			taken := (*m.arrived)[:n]
			*m.arrived = (*m.arrived)[n:]
			return taken
		},
	}
}

// parcel is the body of a request and of its answer.
type parcel struct {
	Address string
	Events  []relay.Event
	Refused []int
	Missing bool
	TooLong bool
}

// Do is the service.
func (m *memory) Do(r *http.Request) (*http.Response, error) {
	var p parcel
	if err := json.NewDecoder(r.Body).Decode(&p); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	size := 0
	for _, ev := range p.Events {
		size += len(ev.Payload)
	}
	p.Missing = p.Address != memoryName
	p.TooLong = size > memoryLimit || m.fault == "limit is smaller than declared" && size > memoryLimit/2
	for i, ev := range p.Events {
		switch {
		case p.Missing || p.TooLong:
		case ev.Payload == "refused" && m.fault != "refused event is accepted":
			p.Refused = append(p.Refused, i)
		case m.fault == "refusal stops the rest" && len(p.Refused) > 0:
		case m.fault == "stack instead of a queue":
			*m.arrived = append([]string{ev.EventID}, *m.arrived...)
		default:
			*m.arrived = append(*m.arrived, ev.EventID)
		}
	}
	body, err := json.Marshal(p)
	return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(bytes.NewReader(body))}, err
}

func (m *memory) ask(ctx context.Context, p parcel) (parcel, error) {
	body, err := json.Marshal(p)
	if err != nil {
		return p, err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://memory", bytes.NewReader(body))
	if err != nil {
		return p, err
	}
	answer, err := m.client.Do(r)
	if err != nil {
		return p, err
	}
	defer func() { _ = answer.Body.Close() }()
	return p, json.NewDecoder(answer.Body).Decode(&p)
}

func (m *memory) LookUp(_ context.Context, r destination.Route) (destination.Route, error) {
	if r.Name != memoryName && m.fault != "look-up finds everything" {
		return r, fmt.Errorf("%w: create it", errorcode.New("NotFound", "gone"))
	}
	r.Address, r.Limit = r.Name, memoryLimit
	if m.fault == "look-up without a limit" {
		r.Limit = 0
	}
	return r, nil
}

func (m *memory) Open(r destination.Route) destination.Destination {
	if m.fault == "open asks the service" {
		_, _ = m.ask(context.Background(), parcel{Address: r.Address})
	}
	return &memoryQueue{memory: m, route: r}
}

func (m *memory) MayPublish(ctx context.Context, r destination.Route) error {
	if m.fault == "may publish publishes" {
		_, _ = m.ask(ctx, parcel{Address: r.Address, Events: []relay.Event{{EventID: "test"}}})
	}
	return nil
}

type memoryQueue struct {
	*memory
	route destination.Route
}

func (q *memoryQueue) Properties() destination.Properties {
	return destination.Properties{
		Address: q.route.Address, Ordered: q.route.Ordered && q.fault != "properties without order", MaxEvents: 4, MaxBytes: q.route.Limit,
	}
}

func (q *memoryQueue) Span() destination.Span {
	if q.fault == "span without a name" {
		return destination.Span{}
	}
	return destination.Span{Operation: "send", Name: memoryName, Attributes: []attribute.KeyValue{attribute.String("messaging.system", "memory")}}
}

func (q *memoryQueue) Check(ev *relay.Event) (bytes int, invalid *relay.PublishError) {
	if len(ev.Payload) > q.route.Limit && q.fault != "check accepts everything" {
		invalid = errorcode.New(relay.CodeTooLarge, "too large")
	}
	return len(ev.Payload), invalid
}

func (q *memoryQueue) NewSender() destination.Sender { return &memorySender{to: q} }

type memorySender struct {
	to       *memoryQueue
	outcomes []destination.Outcome
}

func (s *memorySender) Send(ctx context.Context, events []*relay.Event) destination.Answer {
	m := s.to.memory
	if !m.begin() {
		return destination.Failed(errorcode.New("Throttled", "one at a time"))
	}
	p := parcel{Address: s.to.route.Address}
	for _, ev := range events {
		p.Events = append(p.Events, *ev)
	}
	answer, err := m.ask(ctx, p)
	switch {
	case errors.Is(err, detach.ErrTooLate):
		return destination.Failed(errorcode.New(relay.CodeTimeout, "not sent"))
	case errors.Is(err, context.DeadlineExceeded):
		a := destination.Failed(errorcode.New(relay.CodeTimeout, "no answer"))
		a.DeliveryUncertain = m.fault != "silence counts as not delivered"
		return a
	case err != nil:
		a := destination.Failed(errorcode.New(relay.CodeConnection, err.Error()))
		a.DeliveryUncertain = m.fault != "lost answer counts as not arrived"
		return a
	case answer.Missing && m.fault == "missing destination is a retry":
		return destination.Failed(errorcode.New("Throttled", "gone"))
	case answer.Missing:
		return destination.Failed(errorcode.New("NotFound", "gone"))
	case answer.TooLong:
		return destination.Failed(errorcode.New("BatchRequestTooLong", "too long"))
	case m.fault == "refused request arrives" && len(answer.Refused) > 0:
		return destination.Failed(errorcode.New("InvalidParameter", "refused"))
	}
	if m.fault != "sender keeps its outcomes" {
		s.outcomes = nil
	}
	for range events {
		s.outcomes = append(s.outcomes, destination.Outcome{Accepted: true, MessageID: m.message()})
	}
	for _, i := range answer.Refused {
		s.outcomes[i] = destination.Outcome{Err: errorcode.New("InvalidParameter", "refused")}
	}
	a := destination.Answer{Outcomes: s.outcomes}
	if m.fault == "answer without the last event" {
		a.Outcomes = a.Outcomes[:len(events)-1]
	}
	return a
}

// begin reports whether a request may begin. With the fault only the first one may.
func (m *memory) begin() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	*m.begun++
	return m.fault != "one request only" || *m.begun == 1
}

func (m *memory) message() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if *m.sent++; m.fault == "one message id" {
		return "message"
	}
	return strings.Repeat("m", *m.sent)
}
