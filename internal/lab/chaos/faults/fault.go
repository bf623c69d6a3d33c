package faults

import (
	"context"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/temporal-outbox/relay/internal/lab/chaos/check"
)

// fault is what the proxy does to one request. A fault without a kind forwards the
// request and its answer.
type fault struct {
	kind     Kind // of the whole request; empty: forwarded and answered
	dice     int
	slow     time.Duration
	withheld map[string]bool // entry ids that are not forwarded
	failed   map[string]Kind // withheld and reported as failed
	omitted  map[string]bool // left out of the answer

	began, ended time.Time // when it was forwarded, and when the endpoint had answered
}

// decide throws the dice for a request. It returns nil if the client gave up
// while the request was held.
func (p *Proxy) decide(ctx context.Context, q *request) *fault {
	p.mu.Lock()
	for {
		gate := p.gate(q)
		if gate == nil {
			break
		}
		p.mu.Unlock()
		select {
		case <-gate:
		case <-ctx.Done():
			return nil
		}
		p.mu.Lock()
	}
	defer p.mu.Unlock()
	f := &fault{dice: p.dice.IntN(2), withheld: map[string]bool{}, failed: map[string]Kind{}, omitted: map[string]bool{}}
	for id := 0; id <= p.last; id++ { // in a fixed order
		rule := p.rules[id]
		switch {
		case rule == nil || !rule.meets(q):
		case entryKinds[rule.Kind]:
			for _, e := range q.entries {
				if !f.withheld[e.id] && !f.omitted[e.id] && p.dice.Float64() < rule.Share {
					f.meet(rule.Kind, e.id)
					p.record.injected[rule.Kind]++
				}
			}
		case p.dice.Float64() >= rule.Share:
		case rule.Kind == Slow:
			f.slow = max(rule.Delay, f.slow)
			if f.slow == 0 {
				f.slow = time.Second
			}
			p.record.injected[Slow]++
		case f.kind == "":
			f.kind = rule.Kind
			p.record.injected[rule.Kind]++
		}
	}
	return f
}

// gate is the end of a rule that holds the request, if there is one. p.mu is held.
func (p *Proxy) gate(q *request) <-chan struct{} {
	for id, rule := range p.rules {
		if rule.Kind == Hold && rule.meets(q) {
			return p.gone[id]
		}
	}
	return nil
}

// meets reports whether a rule concerns a request. Look-ups are only ever denied,
// held, dropped or throttled, as a whole.
func (r *Rule) meets(q *request) bool {
	if r.Destination != "" && r.Destination != q.destination || slices.Contains(r.Spared, q.destination) {
		return false
	}
	return q.entries != nil || r.Kind == Deny || r.Kind == DropRequest || r.Kind == Throttle
}

func (f *fault) meet(kind Kind, id string) {
	switch kind {
	case FailEntry, ThrottleEntry, Poison:
		f.withheld[id], f.failed[id] = true, kind
	case OmitDropped:
		f.withheld[id], f.omitted[id] = true, true
	case OmitAccepted:
		f.omitted[id] = true
	}
}

// refuse answers a request that is not forwarded, and reports whether it was one.
func (f *fault) refuse(w http.ResponseWriter, r *http.Request, q *request) bool {
	switch f.kind {
	case DropRequest:
		panic(http.ErrAbortHandler)
	case Hang:
		pause(r.Context(), hangFor)
		panic(http.ErrAbortHandler)
	case Throttle:
		if q.sqs {
			q.fail(w, http.StatusBadRequest, "RequestThrottled", "the harness says: slow down")
		} else {
			q.fail(w, http.StatusTooManyRequests, "Throttled", "the harness says: slow down")
		}
	case Deny:
		if q.sqs {
			q.fail(w, http.StatusForbidden, "AccessDenied", "the harness denies access")
		} else {
			q.fail(w, http.StatusForbidden, "AuthorizationError", "the harness denies access")
		}
	case ServerError:
		if f.dice == 0 {
			q.fail(w, http.StatusInternalServerError, "InternalFailure", "the harness failed")
		} else {
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = io.WriteString(w, "<html><body>Service Unavailable<br></body></html>")
		}
	default:
		return false
	}
	return true
}

// reply sends the endpoint's answer to the relay, changed, unchanged or not at all, and
// notes which entries the relay knows to be accepted.
func (p *Proxy) reply(w http.ResponseWriter, r *http.Request, q *request, f *fault, answer *reply) {
	text := answer.text
	var accepted map[string]bool
	if q.entries != nil && answer.status == http.StatusOK {
		var err error
		if accepted, text, err = q.rewrite(text, f); err != nil {
			panic(http.ErrAbortHandler)
		}
	}
	if f.kind == DropAnswer || f.kind == HangAfter || r.Context().Err() != nil {
		p.note(r, q, f, accepted, true)
		if f.kind == HangAfter {
			pause(r.Context(), hangFor)
		}
		panic(http.ErrAbortHandler)
	}
	for name, values := range answer.header {
		if name != "Content-Length" && name != "Connection" && name != "Transfer-Encoding" {
			w.Header()[name] = values
		}
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(text)))
	w.WriteHeader(answer.status)
	_, err := w.Write(text) //nolint:gosec // it is the endpoint's answer, for the SDK
	if err == nil {
		err = http.NewResponseController(w).Flush()
	}
	// The relay may have given up at this moment.
	p.note(r, q, f, accepted, err != nil || r.Context().Err() != nil)
}

// unknown notes a request that was forwarded and whose answer did not come: the endpoint may
// have accepted all of it.
func (p *Proxy) unknown(r *http.Request, q *request, f *fault) {
	accepted := map[string]bool{}
	for _, e := range q.entries {
		accepted[e.id] = !f.withheld[e.id]
	}
	p.note(r, q, f, accepted, true)
}

// note records which events the endpoint has accepted, and whether the relay
// hears of it.
func (p *Proxy) note(r *http.Request, q *request, f *fault, accepted map[string]bool, lost bool) {
	told := false
	for _, e := range q.entries {
		if !accepted[e.id] {
			continue
		}
		heard := !lost && !f.omitted[e.id]
		told = told || heard
		p.record.sent(check.Send{EventID: e.event, Process: signer(r), Began: f.began, Ended: f.ended, Told: heard})
	}
	if !told {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	acks := p.record.acks[q.destination]
	if now := time.Now(); len(acks) == 0 || now.Sub(acks[len(acks)-1]) > ackEvery {
		p.record.acks[q.destination] = append(acks, now)
	}
}

// signer is the access key that signed a request:
// AWS4-HMAC-SHA256 Credential=KEY/20261128/eu-central-1/sqs/aws4_request, ...
func signer(r *http.Request) string {
	_, rest, _ := strings.Cut(r.Header.Get("Authorization"), "Credential=")
	key, _, _ := strings.Cut(rest, "/")
	return key
}
