// Package destinationtest holds the rules that every kind of destination keeps: the contract of
// the port internal/publish/destination, as tests. The tests of internal/publish run them with
// SNS and SQS, and a new kind of destination begins with them.
package destinationtest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/publish/destination"
	"github.com/temporal-outbox/relay/internal/publish/detach"
	"github.com/temporal-outbox/relay/internal/publish/errorcode"
	"github.com/temporal-outbox/relay/internal/relay"
)

// Client sends requests. A driver sends all of its requests with one.
type Client interface {
	Do(*http.Request) (*http.Response, error)
}

// Fixture is one kind of destination, with an empty destination that exists.
type Fixture struct {
	// Client sends to the real service, or to its emulator.
	Client Client
	// Driver returns a driver whose requests all pass through the client.
	Driver func(Client) destination.Driver
	// Route leads to the destination by its name, before any look-up.
	Route destination.Route
	// Missing leads to a destination that does not exist, before any look-up, and MissingAddress
	// is an address that the service could have given it.
	Missing        destination.Route
	MissingAddress string
	// Refused is an event that the service refuses, although the other events of its request are
	// good. Send gets it without a Check.
	Refused relay.Event
	// Arrived takes n messages from the destination, and returns their event ids in the order of
	// their arrival. It fails the test if fewer arrive.
	Arrived func(t T, n int) (eventIDs []string)
}

// T is the part of testing.T that a rule needs.
type T interface {
	require.TestingT
	Context() context.Context
}

// Rule is one sentence of the contract.
type Rule struct {
	Name string
	// Check fails t if the destination breaks the rule.
	Check func(t T, f Fixture)
}

// Rules are all of them.
var Rules = []Rule{
	{"LookUpFindsTheAddressAndTheLimit", lookUpFinds},
	{"LookUpSaysThatADestinationIsMissing", lookUpMissing},
	{"OpenSendsNothing", openSendsNothing},
	{"MayPublishPublishesNothing", mayPublishPublishesNothing},
	{"PropertiesAreThoseOfTheRoute", propertiesOfTheRoute},
	{"SpanNamesTheDestination", spanNames},
	{"CheckCountsAndRefusesWhatIsTooLarge", checkCounts},
	{"SendGivesEachEventOneOutcome", sendGivesOutcomes},
	{"SendTakesAFullRequest", sendTakesAFullRequest},
	{"SendKeepsTheOrder", sendKeepsTheOrder},
	{"SendForgetsTheRequestBefore", sendForgets},
	{"SendersWorkSideBySide", sendersSideBySide},
	{"ARefusedEventHarmsNoOther", refusedHarmsNoOther},
	{"AMissingDestinationFailsTheRequest", missingFailsTheRequest},
	{"SilenceIsUncertain", silenceIsUncertain},
	{"ALostAnswerIsUncertain", lostAnswerIsUncertain},
	{"NothingIsSentAfterTheDeadline", nothingAfterTheDeadline},
}

// Run checks all rules. Each gets a fixture of its own from fixture.
func Run(t *testing.T, fixture func(t *testing.T) Fixture) {
	for _, r := range Rules {
		t.Run(r.Name, func(t *testing.T) { r.Check(t, fixture(t)) })
	}
}

// patience bounds a request of a rule. The service answers within it.
const patience = 10 * time.Second

func lookUpFinds(t T, f Fixture) {
	route := lookedUp(t, f, f.Client)
	require.NotEmpty(t, route.Address, "the address is not looked up")
	require.Positive(t, route.Limit, "the limit is not looked up")
	want := f.Route
	want.Address, want.Limit, want.Guessed = route.Address, route.Limit, route.Guessed
	require.Equal(t, want, route, "a look-up changes the address, the limit and Guessed only")
}

func lookUpMissing(t T, f Fixture) {
	_, err := f.Driver(f.Client).LookUp(within(t), f.Missing)
	var refusal *relay.PublishError
	require.ErrorAs(t, err, &refusal)
	require.Equal(t, relay.ClassDestination, refusal.Class, "%v", err)
	require.Equal(t, errorcode.CauseMissing, errorcode.Lookup(refusal.Code).Cause, "%v", err)
	require.ErrorContains(t, err, "create it", "the error does not say what to do")
}

func openSendsNothing(t T, f Fixture) {
	route := lookedUp(t, f, f.Client)
	counted := &counting{Client: f.Client}
	to := f.Driver(counted).Open(route)
	to.Properties()
	to.NewSender()
	require.Zero(t, counted.requests.Load(), "it used the network")
}

func mayPublishPublishesNothing(t T, f Fixture) {
	route := lookedUp(t, f, f.Client)
	if err := f.Driver(f.Client).MayPublish(within(t), route); err != nil {
		require.ErrorIs(t, err, destination.ErrUntold, "the destination accepts events")
	}
	last := events(1)
	require.Nil(t, send(t, f.Driver(f.Client).Open(route), last).Failure)
	require.Equal(t, ids(last), f.Arrived(t, 1), "a message came from MayPublish")
}

func propertiesOfTheRoute(t T, f Fixture) {
	route := lookedUp(t, f, f.Client)
	to := f.Driver(f.Client).Open(route)
	p := to.Properties()
	require.Equal(t, destination.WithoutSecrets(route.Address), p.Address)
	require.Equal(t, f.Route.Ordered, p.Ordered)
	require.Equal(t, route.Limit, p.MaxBytes)
	require.Positive(t, p.MaxEvents)
	require.Equal(t, p, to.Properties(), "the answer never changes")
}

func spanNames(t T, f Fixture) {
	to := open(t, f, f.Client)
	s := to.Span()
	require.NotEmpty(t, s.Operation)
	require.Equal(t, f.Route.Name, s.Name, "the fixture's route has the name, and no address")
	var keys []string
	for _, a := range s.Attributes {
		keys = append(keys, string(a.Key))
	}
	require.Contains(t, keys, "messaging.system")
	require.Equal(t, s, to.Span(), "the answer never changes")
}

func checkCounts(t T, f Fixture) {
	to := open(t, f, f.Client)
	p := to.Properties()
	ev := events(1)[0]
	small, invalid := to.Check(ev)
	require.Nil(t, invalid)
	require.GreaterOrEqual(t, small, len(ev.Payload))
	ev.Payload += "x"
	larger, _ := to.Check(ev)
	require.Equal(t, small+1, larger, "a byte of the payload is not counted")
	ev.Payload += strings.Repeat("x", p.MaxBytes-larger)
	full, invalid := to.Check(ev)
	require.Equal(t, p.MaxBytes, full)
	require.Nil(t, invalid, "an event of MaxBytes is not too large")
	// A limit that is only guessed is believed from the largest that the service knows.
	ev.Payload += strings.Repeat("x", 64<<20)
	_, invalid = to.Check(ev)
	require.NotNil(t, invalid, "an event of more than MaxBytes is too large")
	require.Equal(t, relay.ClassPoison, invalid.Class)
	require.False(t, invalid.Whole, "it is about this event only")
}

func sendGivesOutcomes(t T, f Fixture) {
	to := open(t, f, f.Client)
	all := events(to.Properties().MaxEvents)
	accepted(t, send(t, to, all), all)
	require.ElementsMatch(t, ids(all), f.Arrived(t, len(all)))
}

func sendTakesAFullRequest(t T, f Fixture) {
	to := open(t, f, f.Client)
	p := to.Properties()
	all := events(p.MaxEvents)
	bytes := 0
	for _, ev := range all {
		b, _ := to.Check(ev)
		bytes += b
	}
	for i, ev := range all {
		share := (p.MaxBytes - bytes) / (len(all) - i)
		ev.Payload += strings.Repeat("x", share)
		bytes += share
	}
	require.Equal(t, p.MaxBytes, bytes)
	accepted(t, send(t, to, all), all)
}

// The relay never puts two events of a key into a request to an ordered destination. The order is
// that of the requests.
func sendKeepsTheOrder(t T, f Fixture) {
	to := open(t, f, f.Client)
	if !to.Properties().Ordered {
		return
	}
	all := events(5)
	for _, ev := range all {
		ev.Key = "the key of all"
		one := []*relay.Event{ev}
		accepted(t, send(t, to, one), one)
	}
	require.Equal(t, ids(all), f.Arrived(t, len(all)))
}

func sendForgets(t T, f Fixture) {
	to := open(t, f, f.Client)
	sender := to.NewSender()
	first, second := events(to.Properties().MaxEvents), events(1)
	a := sender.Send(within(t), first)
	accepted(t, a, first)
	a = sender.Send(within(t), second)
	accepted(t, a, second)
	require.LessOrEqual(t, len(a.Outcomes), 1, "outcomes of the request before")
	require.ElementsMatch(t, append(ids(first), ids(second)...), f.Arrived(t, len(first)+1))
}

func sendersSideBySide(t T, f Fixture) {
	to := open(t, f, f.Client)
	var requests [4][]*relay.Event
	var answers [4]destination.Answer
	var sending sync.WaitGroup
	ctx := within(t)
	for i := range requests {
		requests[i] = events(2)
		sending.Go(func() { answers[i] = to.NewSender().Send(ctx, requests[i]) })
	}
	sending.Wait()
	var sent []string
	for i, a := range answers {
		accepted(t, a, requests[i])
		sent = append(sent, ids(requests[i])...)
	}
	require.ElementsMatch(t, sent, f.Arrived(t, len(sent)))
}

// A service may refuse the whole request for one event. The answer then says so, and nothing has
// arrived.
func refusedHarmsNoOther(t T, f Fixture) {
	to := open(t, f, f.Client)
	good := events(2)
	refused := f.Refused
	a := send(t, to, []*relay.Event{good[0], &refused, good[1]})
	last := events(1)
	if a.Failure != nil {
		require.True(t, a.Failure.Whole)
		require.True(t, errorcode.Lookup(a.Failure.Code).Divides, "the relay does not look for the event behind the code %s", a.Failure.Code)
		accepted(t, send(t, to, last), last)
		require.Equal(t, ids(last), f.Arrived(t, 1), "an event arrived of a request that failed")
		return
	}
	_, err := a.Of(1)
	require.NotNil(t, err, "the outcome of the refused event")
	require.False(t, err.Whole, "it is about this event only")
	for _, i := range []int{0, 2} {
		_, err := a.Of(i)
		require.Nil(t, err, "the outcome of event %d", i)
	}
	accepted(t, send(t, to, last), last)
	require.ElementsMatch(t, append(ids(good), ids(last)...), f.Arrived(t, 3))
}

func missingFailsTheRequest(t T, f Fixture) {
	route := f.Missing
	route.Address = f.MissingAddress
	a := send(t, f.Driver(f.Client).Open(route), events(2))
	require.NotNil(t, a.Failure)
	require.True(t, a.Failure.Whole)
	require.Equal(t, relay.ClassDestination, a.Failure.Class, "%v", a.Failure)
	require.Equal(t, errorcode.CauseMissing, errorcode.Lookup(a.Failure.Code).Cause, "%v", a.Failure)
	require.False(t, a.DeliveryUncertain, "the service has answered")
}

// The service takes a request and never answers: only the deadline ends the request.
func silenceIsUncertain(t T, f Fixture) {
	to := f.Driver(silent{}).Open(lookedUp(t, f, f.Client))
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	a := to.NewSender().Send(ctx, events(1))
	require.NotNil(t, a.Failure)
	require.True(t, a.Failure.Whole)
	require.Equal(t, relay.CodeTimeout, a.Failure.Code)
	require.Equal(t, relay.ClassRetry, a.Failure.Class)
	require.True(t, a.DeliveryUncertain, "the service may have accepted the event")
	require.Error(t, ctx.Err(), "the request ended before its deadline")
}

// The service accepts the request, and the answer is lost.
func lostAnswerIsUncertain(t T, f Fixture) {
	to := f.Driver(&losing{Client: f.Client}).Open(lookedUp(t, f, f.Client))
	all := events(2)
	a := send(t, to, all)
	require.True(t, a.DeliveryUncertain, "the service has accepted an attempt that has no answer")
	if a.Failure != nil {
		require.True(t, a.Failure.Whole)
		require.Equal(t, relay.ClassRetry, a.Failure.Class)
	}
	for _, id := range f.Arrived(t, len(all)) {
		require.Contains(t, ids(all), id)
	}
}

func nothingAfterTheDeadline(t T, f Fixture) {
	route := lookedUp(t, f, f.Client)
	counted := &counting{Client: f.Client}
	to := f.Driver(counted).Open(route)
	ctx := detach.WithDeadline(within(t), func() time.Time { return time.Now().Add(-time.Second) })
	a := to.NewSender().Send(ctx, events(1))
	require.NotNil(t, a.Failure)
	require.Zero(t, counted.requests.Load(), "a request was sent after the deadline")
	require.False(t, a.DeliveryUncertain, "nothing was sent")
}

func lookedUp(t T, f Fixture, c Client) destination.Route {
	route, err := f.Driver(c).LookUp(within(t), f.Route)
	require.NoError(t, err)
	return route
}

func open(t T, f Fixture, c Client) destination.Destination {
	return f.Driver(c).Open(lookedUp(t, f, c))
}

func send(t T, to destination.Destination, all []*relay.Event) destination.Answer {
	return to.NewSender().Send(within(t), all)
}

func within(t T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	context.AfterFunc(t.Context(), cancel)
	return ctx
}

// accepted requires that each event was accepted, with a message id of its own.
func accepted(t T, a destination.Answer, all []*relay.Event) {
	require.Nil(t, a.Failure)
	require.Len(t, a.Outcomes, len(all), "one outcome for each event")
	var messages []string
	for i := range all {
		message, err := a.Of(i)
		require.Nil(t, err, "the outcome of event %d", i)
		require.NotEmpty(t, message)
		require.NotContains(t, messages, message, "the message id of two events")
		messages = append(messages, message)
	}
	require.False(t, a.DeliveryUncertain, "the service has answered")
}

// events makes n events with different keys.
func events(n int) []*relay.Event {
	all := make([]*relay.Event, n)
	for i := range all {
		all[i] = &relay.Event{
			Ref: relay.Ref{ID: int64(i + 1)}, CreatedAt: time.Now(), EventID: uuid.NewString(),
			Key: fmt.Sprintf("key %d", i), Type: "order.placed", ContentType: "application/json", Payload: `{"n":1}`,
		}
	}
	return all
}

func ids(all []*relay.Event) []string {
	var found []string
	for _, ev := range all {
		found = append(found, ev.EventID)
	}
	return found
}

// counting counts the requests.
type counting struct {
	Client
	requests atomic.Int64
}

func (c *counting) Do(r *http.Request) (*http.Response, error) {
	c.requests.Add(1)
	return c.Client.Do(r)
}

// silent takes requests and answers none.
type silent struct{}

func (silent) Do(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

var errLost = errors.New("connection reset by peer")

// losing passes requests on, and loses the answer to the first of them.
type losing struct {
	Client
	lost atomic.Bool
}

// lostConnection is what net/http returns for a connection that breaks.
type lostConnection struct{ error }

func (lostConnection) Timeout() bool   { return false }
func (lostConnection) Temporary() bool { return false }

func (l *losing) Do(r *http.Request) (*http.Response, error) {
	answer, err := l.Client.Do(r)
	if err != nil || l.lost.Swap(true) {
		return answer, err
	}
	_ = answer.Body.Close()
	return nil, lostConnection{errLost}
}
