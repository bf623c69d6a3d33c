package service

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	enumspb "go.temporal.io/api/enums/v1"

	"github.com/temporal-outbox/relay/internal/liveness"
	"github.com/temporal-outbox/relay/internal/postgres"
	"github.com/temporal-outbox/relay/internal/printable"
	"github.com/temporal-outbox/relay/internal/publish"
)

// checkTimeout bounds all checks together.
const checkTimeout = 30 * time.Second

// The states of a finding.
const (
	checkOK      = "ok"
	checkFailed  = "failed"
	checkUnknown = "unknown" // it could not be found out
	checkWarning = "warning" // works, and should not stay so
)

// finding is one line of --check.
type finding struct {
	State  string `json:"state"`
	Check  string `json:"check"` // configuration, encryption, database, session, rights, security, state, trigger, sequence, route, temporal, schedule, maintenance, relay, workers, version, destination, publish, subscription or mode
	Topic  string `json:"topic,omitempty"`
	Detail string `json:"detail"`
}

// name is the name of the check, with its topic.
func (f finding) name() string {
	if f.Topic == "" {
		return f.Check
	}
	return printable.Line(f.Topic) + ": " + f.Check
}

// report is what --check --json prints.
type report struct {
	OK     bool      `json:"ok"` // nothing failed
	Checks []finding `json:"checks"`
}

func (r *report) add(check, topic string, err error, detail string) {
	f := finding{State: checkOK, Check: check, Topic: topic, Detail: detail}
	if err != nil {
		f.State, f.Detail = checkFailed, err.Error()
	}
	if errors.Is(err, publish.ErrUntold) || errors.Is(err, errNotAsked) {
		f.State = checkUnknown
	}
	r.OK = r.OK && f.State != checkFailed
	r.Checks = append(r.Checks, f)
}

// warn adds a line that is no failure, but that an operator should see.
func (r *report) warn(check string, err error) {
	r.Checks = append(r.Checks, finding{State: checkWarning, Check: check, Detail: err.Error()})
}

func (r *report) warnTopic(check, topic, detail string) {
	r.Checks = append(r.Checks, finding{State: checkWarning, Check: check, Topic: topic, Detail: detail})
}

// errNotAsked says that a check depends on one that failed.
var errNotAsked = errors.New("not checked")

// check looks at everything that a worker needs, and prints the findings. It starts nothing
// and changes nothing. Its error only means that a check failed.
func check(ctx context.Context, out io.Writer, asJSON bool) error {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	found := findings(ctx)
	if asJSON {
		if err := json.NewEncoder(out).Encode(found); err != nil {
			return fmt.Errorf("print the findings: %w", err)
		}
	} else {
		found.print(out)
	}
	if !found.OK {
		return errors.New("a check failed: this worker would not publish all events")
	}
	return nil
}

func findings(ctx context.Context) *report {
	found := &report{OK: true}
	s, err := readSettings()
	if err != nil {
		for _, problem := range each(err) {
			found.add("configuration", "", problem, "")
		}
		return found
	}
	r, err := newRelay(s, slog.New(slog.DiscardHandler))
	if err == nil {
		err = r.newPublisher(ctx)
	}
	if err != nil {
		found.add("configuration", "", err, "")
		return found
	}
	defer r.close()
	found.add("configuration", "", nil, fmt.Sprintf("%s, task queue %s, OUTBOX_BATCHES=%s", printable.Counted(len(s.topics), "topic"), s.TaskQueue, s.Batches))
	if err := postgres.Encrypted(s.DatabaseURL); err != nil {
		found.warn("encryption", err)
	}
	r.checkDatabase(ctx, found)
	r.checkTemporal(ctx, found)
	r.checkTopics(ctx, found)
	return found
}

// each takes joined errors apart.
func each(err error) (all []error) {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err}
	}
	for _, e := range joined.Unwrap() {
		all = append(all, each(e)...)
	}
	return all
}

func (r *relay) checkDatabase(ctx context.Context, found *report) {
	var database error
	if r.store, database = r.openStore(ctx); database == nil {
		database = r.store.Reach(ctx)
	}
	var session, rights, security, state error
	switch {
	case errors.Is(database, postgres.ErrSession):
		database, session = nil, database
		rights = fmt.Errorf("%w: see session", errNotAsked)
		security, state = rights, rights
	case database != nil:
		session = fmt.Errorf("%w: see database", errNotAsked)
		rights, security, state = session, session, session
	default:
		session = r.store.CanHold(ctx, r.publisher.Topics())
		rights, security = r.store.Rights(ctx), r.store.Security(ctx)
		if state = fmt.Errorf("%w: see rights", errNotAsked); rights == nil {
			state = r.store.State(ctx)
		}
	}
	found.add("database", "", database, "answers, and has an outbox")
	found.add("session", "", session, "writes, speaks UTF-8, is read committed")
	found.add("rights", "", rights, "the role has all rights that the relay needs")
	found.add("security", "", security, "no row is hidden from the role")
	found.add("state", "", state, "the next event's id is new, and the tables outbox.round, outbox.sample and outbox.share have their rows")
	r.checkTrigger(ctx, found, blocker(database, session, rights))
	if database == nil && session == nil {
		for _, warning := range r.store.Warnings(ctx) {
			found.warn(warning.Check, warning.Err)
		}
	}
	if database == nil && session == nil && rights == nil {
		r.checkRoutes(ctx, found)
	}
}

// unroutedMost is how many topics without a route have a line of their own.
const unroutedMost = 20

// checkRoutes warns of topics that have pending events and no route, so that a name that is
// misspelt does not wait for its recovery to be noticed.
func (r *relay) checkRoutes(ctx context.Context, found *report) {
	names := r.publisher.Topics()
	unrouted, err := r.store.Unrouted(ctx, names, unroutedMost+1)
	if err != nil {
		found.add("route", "", fmt.Errorf("%w: %w", errNotAsked, err), "")
		return
	}
	for i, u := range unrouted {
		if i == unroutedMost {
			found.warn("route", fmt.Errorf("more topics than these %d have pending events and no route: starter status lists them all", unroutedMost))
			return
		}
		many := ""
		if u.More {
			many = "more than "
		}
		text := fmt.Sprintf("%s%d events in %d lanes are pending, and OUTBOX_CONFIG has no topic of this name, so they wait: add it, or correct the name where the events are written",
			many, u.Events, u.Lanes)
		if near := nearest(u.Topic, names); near != "" {
			text += fmt.Sprintf("; did you mean %q?", near)
		}
		found.warnTopic("route", u.Topic, text)
	}
}

// blocker says which failed check keeps the trigger from being looked at.
func blocker(database, session, rights error) string {
	switch {
	case database != nil:
		return "the database does not answer"
	case session != nil:
		return "see session"
	case rights != nil:
		return "see rights"
	}
	return ""
}

// checkTrigger looks at the trigger unless a check before it failed.
func (r *relay) checkTrigger(ctx context.Context, found *report, blocked string) {
	if blocked != "" {
		found.add("trigger", "", fmt.Errorf("%w: %s", errNotAsked, blocked), "")
		return
	}
	enqueue, err := r.store.Enqueue(ctx)
	if err == nil {
		err = enqueue.Failure()
	}
	found.add("trigger", "", err, "inserted events become pending")
	if err := enqueue.Warning(); err != nil {
		found.warn("trigger", err)
	}
}

func (r *relay) checkTemporal(ctx context.Context, found *report) {
	err := r.connectTemporal(ctx)
	if err == nil {
		// Unlike a health check, this needs a namespace, and rights in it.
		_, err = r.temporal.DescribeTaskQueue(ctx, r.TaskQueue, enumspb.TASK_QUEUE_TYPE_ACTIVITY)
	}
	found.add("temporal", "", err, "answers, and knows the namespace")
	if err != nil {
		found.addRelay(liveness.Untold(r.TaskQueue, fmt.Errorf("%w: see temporal", errNotAsked)))
		return
	}
	s, _ := liveness.Look(ctx, r.temporal, r.TaskQueue, r.Deployment) // the state says as much
	found.addRelay(s.ForWorker(r.Deployment))
}

// addRelay says whether anything runs the relay. A check comes before a deployment, also
// before the first, so that none of this is a failure.
func (r *report) addRelay(s liveness.State) {
	for _, f := range s.Findings() {
		state := checkOK
		switch {
		case f.Bad:
			state = checkWarning
		case f.Unknown:
			state = checkUnknown
		}
		r.Checks = append(r.Checks, finding{State: state, Check: f.Of, Detail: f.Text})
	}
}

// checkTopics asks all destinations at once, because each may take its time.
func (r *relay) checkTopics(ctx context.Context, found *report) {
	topics := r.publisher.Topics()
	there, allowed := make([]error, len(topics)), make([]error, len(topics))
	routes := make([]publish.Route, len(topics))
	enveloped, unread := make([][]string, len(topics)), make([]error, len(topics))
	modes, untold := make([]publish.Mode, len(topics)), make([]error, len(topics))
	var wg sync.WaitGroup
	for i, topic := range topics {
		wg.Go(func() {
			if routes[i], there[i] = r.resolve(ctx, topic); there[i] == nil {
				allowed[i] = r.publisher.MayPublish(ctx, topic)
				enveloped[i], unread[i] = r.publisher.Enveloped(ctx, topic)
				modes[i], untold[i] = r.publisher.Mode(ctx, topic)
			} else {
				allowed[i] = fmt.Errorf("%w: the destination was not found", errNotAsked)
			}
		})
	}
	wg.Wait()
	for i, topic := range topics {
		found.add("destination", topic, there[i], address(routes[i]))
		found.add("publish", topic, allowed[i], "allowed")
		if len(enveloped[i]) > 0 {
			found.warnTopic("subscription", topic, envelopes(enveloped[i]))
		}
		if unread[i] != nil {
			found.add("subscription", topic, unread[i], "")
		}
		if modes[i] != "" || untold[i] != nil {
			found.add("mode", topic, untold[i], mode(modes[i]))
		}
	}
}

// mode says what the mode of a FIFO queue means.
func mode(m publish.Mode) string {
	if m == publish.HighThroughput {
		return "the FIFO queue has high throughput"
	}
	return "the FIFO queue has no high throughput, so SQS accepts 300 requests a second for all keys together, and the worker settles below that. " +
		"For more, set the queue's attributes DeduplicationScope=messageGroup and FifoThroughputLimit=perMessageGroupId"
}

// envelopes says which subscriptions get more than the payload, and names some.
func envelopes(subscriptions []string) string {
	const most = 5
	text := fmt.Sprintf("%d subscriptions have no raw message delivery, so SNS wraps the payload in an envelope of JSON: turn it on, or have their consumers open the envelope: %s",
		len(subscriptions), strings.Join(subscriptions[:min(most, len(subscriptions))], ", "))
	if len(subscriptions) > most {
		text += ", …"
	}
	return text
}

// resolve looks a destination up. Where an account has many SNS topics it asks until
// they are listed, or the time for all checks is over; then it is not known whether
// the topic exists.
func (r *relay) resolve(ctx context.Context, topic string) (publish.Route, error) {
	for {
		route, err := r.publisher.Resolve(ctx, topic)
		if !publish.IsListing(err) {
			return route, err
		}
		if ctx.Err() != nil {
			return route, fmt.Errorf("%w: %w", publish.ErrUntold, err)
		}
	}
}

// address says what a destination was found to be.
func address(r publish.Route) string {
	text := fmt.Sprintf("%s is %s", r, r.Address)
	if r.Service == publish.SNS && r.Name != r.Address {
		text += "; if you configure this ARN, the worker does not have to look it up"
	}
	return text
}

func (r *report) print(out io.Writer) {
	for _, f := range r.Checks {
		fmt.Fprintf(out, "%-8s %-24s %s\n", f.State, f.name(), strings.ReplaceAll(f.Detail, "\n", "\n"+strings.Repeat(" ", 34)))
	}
}
