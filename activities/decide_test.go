package activities

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/timing"
)

var (
	failsAlone = &relay.PublishError{Code: "InternalError", Class: relay.ClassRetry}
	forbidden  = &relay.PublishError{Code: "AccessDenied", Class: relay.ClassDestination}
	throttled  = &relay.PublishError{Code: "Throttled", Class: relay.ClassRetry, Throttled: true}
	silent     = &relay.PublishError{Code: "Timeout", Class: relay.ClassRetry, Whole: true}
	never      = poison("InvalidMessageContents")
	closed     = &relay.PublishError{Code: "AccessDenied", Class: relay.ClassDestination, Whole: true}
	noRoute    = &relay.PublishError{Code: relay.CodeNoRoute, Class: relay.ClassDestination, Whole: true}
	noon       = time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
)

// answers are how events from 1 on were answered, so many of each kind. nil: they were accepted.
type answers []struct {
	events int
	err    *relay.PublishError
}

// known are the facts of an attempt whose events, in the lanes 1 and 2 in turn, were answered so.
func known(m mode, given answers, more ...func(*facts)) facts {
	f := facts{topic: "orders", mode: m, number: 1, now: noon, expireAfter: time.Hour, ordered: true}
	f.lanes = []int16{1, 2}
	for _, a := range given {
		for _, ref := range refs(1, f.loaded+a.events)[f.loaded:] {
			if f.loaded++; a.err == nil {
				f.accepted++
				f.published++
				continue
			}
			f.inHand = append(f.inHand, ref)
			f.refused.add(relay.Outcome{Ref: ref, Err: a.err}, noon)
		}
	}
	for _, change := range more {
		change(&f)
	}
	return f
}

// refusedLong has the first event refused alone for longer than an hour, and the second for less.
func refusedLong(f *facts) {
	f.refusedFor = map[relay.Ref]time.Duration{refs(1, 1)[0]: 2 * time.Hour, refs(2, 1)[0]: time.Minute}
}

func othersGotThrough(f *facts) { f.othersGotThrough = true }
func whenCancelled(f *facts)    { f.ending = cancelled }
func whenStopped(f *facts)      { f.ending = stopped }
func sentBefore(f *facts)       { f.sent = noon }
func sentAfter(f *facts)        { f.sent = noon.Add(time.Millisecond) }
func believedBefore(f *facts)   { f.believed = ambiguousLimit }
func attemptsBefore(f *facts)   { f.noted.AttemptsWithoutSuccess = attemptsWithoutSuccessLimit - 1 }
func exhausted(f *facts)        { f.probes.exhausted = true }
func publishedBefore(f *facts)  { f.published++ }
func upToABound(f *facts)       { f.parkUpTo = 100 }
func withBorrowedLane(f *facts) {
	f.borrowed = map[int16]int64{7: 3}
	f.inHand, f.loaded = append(f.inHand, relay.Ref{ID: 99, Lane: 7}), f.loaded+1
}

func probed(asked, accepted int) func(*facts) {
	return func(f *facts) {
		f.probes.asked, f.probes.accepted, f.accepted, f.published = asked, accepted, f.accepted+accepted, f.published+accepted
	}
}

// provedAgo has an event behind those that were refused up to an id accepted so long ago.
func provedAgo(ago time.Duration, upTo int64) func(*facts) {
	return func(f *facts) { f.noted.ProvedAt, f.ambiguousTo = noon.Add(-ago), upTo }
}

// decided is what a row of the table expects. Lanes are those of known.
type decided struct {
	dead           []int64 // become dead letters
	remembered     []int64 // as refused alone
	kept, released []int16
	code           string // of the refusal; "": the attempt succeeds
	final          bool   // the topic is handed over to its recovery
	soon           bool   // another attempt follows at once
	probes         bool   // it probed, or probes on
	text           string // a part of the refusal's text
	tally          tally
}

var both = []int16{1, 2}

// rules has rows for the sentences of the decision, in their order.
var rules = []struct {
	sentence string // how it begins
	name     string
	facts    facts
	want     decided
}{
	{"**Poison** becomes a dead letter", "among accepted events", known(relaying, answers{{2, never}, {8, nil}}), decided{dead: ids(1, 2), released: both}},
	{"**Poison** becomes a dead letter", "and is the only one", known(relaying, answers{{1, never}}), decided{dead: ids(1, 1), released: both}},
	{
		"**Poison** becomes a dead letter", "beside one that is retried", known(relaying, answers{{1, never}, {1, failsAlone}}),
		decided{dead: ids(1, 1), remembered: ids(2, 1), kept: []int16{2}, released: []int16{1}, code: "InternalError", text: "orders: 1 of 2 left: InternalError"},
	},

	{"Otherwise a worker believes the code for at most two", "two, and no other", known(relaying, answers{{2, ambiguousPoison()}}), decided{dead: ids(1, 2), released: both}},
	{"Otherwise a worker believes the code for at most two", "two, and others were accepted", known(relaying, answers{{2, ambiguousPoison()}, {1, nil}}, sentAfter), decided{dead: ids(1, 2), released: both}},
	{
		"If more events are refused", "and an event was accepted that was sent before", known(relaying, answers{{5, ambiguousPoison()}, {1, nil}}, sentBefore),
		decided{kept: both, code: "InvalidParameterValue", soon: true, text: "the destination refused 5 events and accepted other events; the relay sends the refused events once more"},
	},
	{
		"If more events are refused", "and one was accepted that was sent later", known(relaying, answers{{5, ambiguousPoison()}, {1, nil}}, sentAfter),
		decided{kept: both, code: "InvalidParameterValue", soon: true, tally: tally{provedAt: noon}},
	},
	{
		"If more events are refused", "one after two that were believed", known(relaying, answers{{1, ambiguousPoison()}, {1, nil}}, believedBefore, sentBefore),
		decided{kept: both, code: "InvalidParameterValue", soon: true},
	},
	{
		"If more events are refused", "and all are accepted then", known(relaying, answers{{6, nil}}, provedAgo(time.Second, 5)),
		decided{released: both},
	},
	{
		"An event that was refused before an accepted event was sent", "beside others", known(relaying, answers{{5, ambiguousPoison()}, {1, nil}}, provedAgo(time.Second, 5), believedBefore),
		decided{dead: ids(1, 5), released: both},
	},
	{
		"An event that was refused before an accepted event was sent", "and not events behind it", known(relaying, answers{{8, ambiguousPoison()}, {1, nil}}, provedAgo(time.Second, 5), sentBefore),
		decided{dead: ids(1, 5), kept: both, code: "InvalidParameterValue", soon: true, text: "refused 3 events", tally: tally{provedAt: noon.Add(-time.Second)}},
	},
	{
		"If no event was accepted, further such codes", "three, and no other", known(relaying, answers{{3, ambiguousPoison()}}),
		decided{kept: both, code: "InvalidParameterValue", final: true, text: "every event is refused alike, so the relay treats the destination as broken", tally: tally{attemptsWithoutSuccess: 1}},
	},
	{
		"If no event was accepted, further such codes", "one after two", known(relaying, answers{{1, ambiguousPoison()}}, believedBefore),
		decided{kept: both, code: "InvalidParameterValue", final: true, tally: tally{attemptsWithoutSuccess: 1}},
	},

	{
		"The relay remembers each", "for an hour", known(relaying, answers{{1, failsAlone}, {9, nil}}, func(f *facts) {
			f.refusedFor = map[relay.Ref]time.Duration{refs(1, 1)[0]: time.Hour}
		}),
		decided{remembered: ids(1, 1), kept: []int16{1}, released: []int16{2}, code: "InternalError"},
	},
	{
		"The relay remembers each", "and retried", known(relaying, answers{{1, failsAlone}, {9, nil}}),
		decided{remembered: ids(1, 1), kept: []int16{1}, released: []int16{2}, code: "InternalError", text: "orders: 1 of 10 left"},
	},
	{
		"The event becomes a dead letter after", "and expires", known(relaying, answers{{2, failsAlone}, {8, nil}}, refusedLong),
		decided{dead: ids(1, 1), remembered: ids(1, 2), kept: []int16{2}, released: []int16{1}, code: "InternalError", text: "orders: 1 of 10 left"},
	},
	{
		"The event becomes a dead letter after", "and others got through in another batch", known(relaying, answers{{1, failsAlone}}, refusedLong, othersGotThrough),
		decided{dead: ids(1, 1), remembered: ids(1, 1), released: both},
	},
	{
		"The event becomes a dead letter after", "and no other got through", known(relaying, answers{{1, failsAlone}}, refusedLong),
		decided{remembered: ids(1, 1), kept: []int16{1}, released: []int16{2}, code: "InternalError"},
	},
	{
		"The event becomes a dead letter after", "and needs a repair, so it does not expire", known(relaying, answers{{1, forbidden}, {9, nil}}, refusedLong),
		decided{remembered: ids(1, 1), kept: []int16{1}, released: []int16{2}, code: "AccessDenied"},
	},

	{
		"If ten events are refused one by one", "for the third time", known(relaying, answers{{10, failsAlone}}, attemptsBefore, refusedLong, othersGotThrough),
		decided{kept: both, code: "InternalError", final: true, tally: tally{attemptsWithoutSuccess: 3}},
	},
	{
		"If ten events are refused one by one", "for the first time", known(relaying, answers{{10, failsAlone}}),
		decided{kept: both, code: "InternalError", tally: tally{attemptsWithoutSuccess: 1}},
	},
	{
		"If ten events are refused one by one", "nine of them", known(relaying, answers{{9, failsAlone}}, attemptsBefore),
		decided{remembered: ids(1, 9), kept: both, code: "InternalError"},
	},
	{
		"If ten events are refused one by one", "and one accepted", known(relaying, answers{{10, failsAlone}, {1, nil}}, attemptsBefore),
		decided{remembered: ids(1, 10), kept: both, code: "InternalError"},
	},
	{
		"If ten events are refused one by one", "and one accepted by an earlier attempt", known(relaying, answers{{10, failsAlone}}, attemptsBefore, publishedBefore),
		decided{remembered: ids(1, 10), kept: both, code: "InternalError"},
	},
	{
		"If ten events are refused one by one", "or a request without an answer", known(relaying, answers{{1, silent}}, attemptsBefore),
		decided{kept: both, code: "Timeout", final: true, tally: tally{attemptsWithoutSuccess: 3}},
	},
	{
		"If ten events are refused one by one", "or no answer, but poison became a dead letter", known(relaying, answers{{1, never}, {1, silent}}, attemptsBefore),
		decided{dead: ids(1, 1), kept: []int16{2}, released: []int16{1}, code: "Timeout"},
	},
	{
		"If ten events are refused one by one", "a fault of the destination, though an earlier attempt got through", known(relaying, answers{{1, forbidden}}, publishedBefore),
		decided{kept: both, code: "AccessDenied", final: true, tally: tally{attemptsWithoutSuccess: 1}},
	},
	{
		"If ten events are refused one by one", "a fault of the destination at once", known(relaying, answers{{1, forbidden}}),
		decided{kept: both, code: "AccessDenied", final: true, tally: tally{attemptsWithoutSuccess: 1}},
	},

	{
		"A topic in recovery gives no event up", "though refused for long", known(recovering, answers{{10, failsAlone}}, refusedLong, othersGotThrough),
		decided{probes: true, kept: both, code: "InternalError", tally: tally{attemptsWithoutSuccess: 1}},
	},
	{
		"A topic in recovery gives no event up", "however often", known(recovering, answers{{1, silent}}, attemptsBefore),
		decided{kept: []int16{1}, released: []int16{2}, code: "Timeout", tally: tally{attemptsWithoutSuccess: 3}},
	},
	{
		"A topic in recovery gives no event up", "but poison", known(recovering, answers{{1, never}, {1, silent}}, attemptsBefore),
		decided{dead: ids(1, 1), kept: []int16{2}, released: []int16{1}, code: "Timeout", tally: tally{attemptsWithoutSuccess: 3}},
	},
	{
		"A topic in recovery gives no event up", "while its destination is closed, though one got through", known(recovering, answers{{1, nil}, {1, closed}}),
		decided{kept: []int16{2}, released: []int16{1}, code: "AccessDenied"},
	},
	{
		"Only an operator does", "by the update", known(parking, answers{{1, forbidden}, {1, failsAlone}, {1, silent}, {1, nil}}),
		decided{dead: ids(1, 3), kept: both},
	},

	{
		"A recovery whose first page is refused one by one, with ambiguous codes only", "probes", known(recovering, answers{{3, ambiguousPoison()}}),
		decided{probes: true, kept: both, code: "InvalidParameterValue", text: "every event is refused alike", tally: tally{attemptsWithoutSuccess: 1}},
	},
	{
		"A recovery whose first page is refused one by one, with ambiguous codes only", "not if one was accepted", known(recovering, answers{{3, ambiguousPoison()}, {1, nil}}, sentAfter),
		decided{kept: both, code: "InvalidParameterValue", soon: true, tally: tally{provedAt: noon}},
	},
	{
		"A recovery whose first page is refused one by one, with ambiguous codes only", "not if access is denied", known(recovering, answers{{3, ambiguousPoison()}, {1, forbidden}}),
		decided{kept: both, code: "InvalidParameterValue", tally: tally{attemptsWithoutSuccess: 1}},
	},

	{
		"It also borrows the free lanes", "and gives them back", known(recovering, answers{{3, ambiguousPoison()}}, withBorrowedLane),
		decided{probes: true, kept: both, code: "InvalidParameterValue", text: "3 of 3 left", tally: tally{attemptsWithoutSuccess: 1}},
	},

	{
		"An accepted probe is not yet a verdict", "", known(recovering, answers{{20, ambiguousPoison()}}, probed(100, 50)),
		decided{
			kept: both, code: "InvalidParameterValue", soon: true, text: "the destination refused 20 events and accepted 50 later events; the relay sends the refused events once more",
			tally: tally{provedAt: noon},
		},
	},

	{
		"The events that are refused again", "", known(recovering, answers{{20, ambiguousPoison()}}, provedAgo(time.Second, 20)),
		decided{dead: ids(1, 20), kept: both, code: "InvalidParameterValue", soon: true, text: "20 events again and accepted other events; the refused events become dead letters", tally: tally{provedAt: noon.Add(-time.Second)}},
	},
	{
		"The events that are refused again", "up to the highest id", known(recovering, answers{{20, ambiguousPoison()}}, provedAgo(time.Second, 12)),
		decided{dead: ids(1, 12), kept: both, code: "InvalidParameterValue", soon: true, tally: tally{provedAt: noon.Add(-time.Second)}},
	},
	{
		"The events that are refused again", "for two minutes", known(recovering, answers{{20, ambiguousPoison()}}, provedAgo(2*time.Minute, 20)),
		decided{probes: true, kept: both, code: "InvalidParameterValue", tally: tally{attemptsWithoutSuccess: 1}},
	},
	{
		"The events that are refused again", "for two minutes, by a clock that was ahead", known(recovering, answers{{20, ambiguousPoison()}}, provedAgo(-2*time.Minute, 20)),
		decided{probes: true, kept: both, code: "InvalidParameterValue", tally: tally{attemptsWithoutSuccess: 1}},
	},
	{
		"An accepted probe is not yet a verdict", "and a request without an answer ends the recovery", known(recovering, answers{{20, ambiguousPoison()}, {1, silent}}, probed(100, 50)),
		decided{released: both, tally: tally{provedAt: noon}},
	},
	{
		"The next attempt sends the refused events once more", "and they are accepted", known(recovering, answers{{20, nil}}, provedAgo(time.Second, 20)),
		decided{released: both},
	},

	{
		"If every probe is refused too", "", known(recovering, answers{{20, ambiguousPoison()}}, probed(410, 0)),
		decided{
			probes: true, kept: both, code: "InvalidParameterValue", text: "every event is refused alike, also 410 probes behind the first page, so the relay treats the destination as broken",
			tally: tally{attemptsWithoutSuccess: 1},
		},
	},

	{
		"A recovery whose first page fails one by one with codes that ask for a retry", "probes", known(recovering, answers{{10, failsAlone}}),
		decided{probes: true, kept: both, code: "InternalError", tally: tally{attemptsWithoutSuccess: 1}},
	},
	{"A recovery whose first page fails one by one with codes that ask for a retry", "not nine", known(recovering, answers{{9, failsAlone}}), decided{released: both}},

	{
		"An accepted probe makes no such event a dead letter", "", known(recovering, answers{{20, failsAlone}}, probed(100, 50)),
		decided{probes: true, remembered: ids(1, 20), kept: both, code: "InternalError", soon: true, tally: tally{provedAt: noon}},
	},
	{
		"It counts as an accepted event", "but counts as others got through", known(recovering, answers{{20, failsAlone}}, probed(100, 50), refusedLong),
		decided{probes: true, dead: ids(1, 1), remembered: ids(1, 20), kept: both, code: "InternalError", soon: true, tally: tally{provedAt: noon}},
	},

	{
		"While probes are accepted", "", known(recovering, answers{{20, failsAlone}}, probed(100, 50), provedAgo(time.Second, 0)),
		decided{
			probes: true, remembered: ids(1, 20), kept: both, code: "InternalError", soon: true, text: "the destination refused 20 events and accepted 50 later events; the next attempt continues",
			tally: tally{provedAt: noon},
		},
	},

	{
		"The recovery ends when there is no event behind", "", known(recovering, answers{{20, failsAlone}}, probed(0, 0), provedAgo(time.Second, 0), exhausted),
		decided{probes: true, released: both, tally: tally{provedAt: noon.Add(-time.Second)}},
	},
	{
		"The recovery ends when there is no event behind", "and the last ones were accepted", known(recovering, answers{{20, failsAlone}}, probed(100, 50), exhausted),
		decided{probes: true, remembered: ids(1, 20), released: both},
	},
	{
		"The recovery ends when there is no event behind", "not before", known(recovering, answers{{20, failsAlone}}, probed(100, 0), provedAgo(time.Second, 0)),
		decided{probes: true, kept: both, code: "InternalError", tally: tally{attemptsWithoutSuccess: 1, provedAt: noon.Add(-time.Second)}},
	},
	{
		"The recovery ends when there is no event behind", "not where everything fails alone", known(recovering, answers{{20, failsAlone}}, exhausted),
		decided{probes: true, kept: both, code: "InternalError", tally: tally{attemptsWithoutSuccess: 1}},
	},

	{
		"Throttling is not probed", "", known(recovering, answers{{20, throttled}}),
		decided{kept: both, code: "Throttled", tally: tally{attemptsWithoutSuccess: 1, throttled: 1}},
	},

	{
		"If every pending key of an ordered destination begins with a refused event", "and no probe may be sent", known(recovering, answers{{20, ambiguousPoison()}}, exhausted),
		decided{probes: true, dead: ids(20, 1), kept: both, code: "InvalidParameterValue", soon: true, text: "the relay makes a dead letter of one event", tally: tally{givenUp: 1}},
	},
	{
		"If every pending key of an ordered destination begins with a refused event", "which is not ordered", known(recovering, answers{{20, ambiguousPoison()}}, exhausted, func(f *facts) { f.ordered = false }),
		decided{probes: true, kept: both, code: "InvalidParameterValue", tally: tally{attemptsWithoutSuccess: 1}},
	},

	{
		"Then the recovery makes at most two", "and no third", known(recovering, answers{{20, ambiguousPoison()}}, exhausted, func(f *facts) { f.noted.GivenUp = 2 }),
		decided{probes: true, kept: both, code: "InvalidParameterValue", text: "every event is refused alike", tally: tally{attemptsWithoutSuccess: 1, givenUp: 2}},
	},
}

// elsewhere has the tests of the sentences that are about a code, a statement or a heartbeat.
var elsewhere = map[string]string{
	"An event counts once":               "activities/refusal_test.go TestAttempt_BelievesNoMoreRefusalsAfterACommitWithoutAnAnswer",
	"The relay believes such a code if":  "activities/inflight_test.go TestInFlight_BelievesARefusalBesideAnAcceptedEvent",
	"One table gives every code a class": "internal/publish/errorcode/table_test.go TestTable_HasOneRowForEachCode",
	"It sends up to 400 events":          "activities/probe_test.go TestRecovery_StaysWhereEveryProbeIsRefusedAlikeAndGoesOnFromThere",
	"On an ordered destination a probe":  "internal/postgres/probe_test.go TestProbe_OvertakesNoEarlierEventOfAKeyWhereOrderCounts",
	"The place is in the heartbeat":      "activities/probe_test.go TestRecovery_StaysWhereEveryProbeIsRefusedAlikeAndGoesOnFromThere",
	"A lane that waits for the retry":    "internal/postgres/deadletter_test.go TestClaim_CountsNoLaneThatWaitsForARetryInTheTopicsShare",
	"Otherwise four events":              "internal/postgres/deadletter_test.go TestClaim_CountsNoLaneThatWaitsForARetryInTheTopicsShare",
}

func ids(from, n int) (ids []int64) {
	for i := range n {
		ids = append(ids, int64(from+i))
	}
	return ids
}

func idsOf(outcomes []relay.Outcome) (ids []int64) {
	for _, o := range outcomes {
		ids = append(ids, o.ID)
	}
	slices.Sort(ids)
	return ids
}

func TestDecide_FollowsEachSentenceOfTheDecision(t *testing.T) {
	for _, rule := range rules {
		t.Run(rule.sentence+" "+rule.name, func(t *testing.T) {
			f, want := rule.facts, rule.want
			if f.probes.asked == 0 {
				require.Equal(t, want.probes, f.isUndecided())
			} else {
				require.Equal(t, want.probes, f.probesOn())
			}
			require.Equal(t, want.remembered, idsOf(f.toRecord(f.judge())))
			d := decide(f)
			require.Equal(t, want.dead, idsOf(d.deadLetters))
			require.Equal(t, want.kept, d.keep)
			require.Equal(t, want.released, d.release)
			require.Equal(t, want.final, d.isHandedOver)
			require.Equal(t, want.tally, d.tally)
			require.Len(t, d.giveBack, len(f.borrowed))
			require.False(t, d.releaseClaim)
			if want.code == "" {
				require.NoError(t, d.err)
				require.Nil(t, d.failure)
				return
			}
			var r *attemptError
			require.ErrorAs(t, d.err, &r)
			require.Equal(t, want.code, r.Code)
			require.Equal(t, want.final, r.final)
			require.Contains(t, r.text, want.text)
			require.Equal(t, want.soon, r.retryAfter == provedBackoff)
			require.Equal(t, want.final || f.mode == recovering, d.failure != nil, "people are told why the topic waits")
			require.Equal(t, d, decide(f), "it is pure")
		})
	}
}

func TestDecide_HasARowOrATestForEachSentence(t *testing.T) {
	root := ".."
	text, err := os.ReadFile(filepath.Join(root, "docs", "decisions", "008-what-becomes-of-what-is-refused.md"))
	require.NoError(t, err)
	_, after, found := strings.Cut(string(text), "**Decision.**")
	require.True(t, found)
	decision, _, found := strings.Cut(after, "**Alternatives.**")
	require.True(t, found)
	// A list has a dash before each point, and some paragraphs begin with a title.
	decision = strings.ReplaceAll(strings.Join(strings.Fields(decision), " "), " - ", " ")
	decision = regexp.MustCompile(`\*\*[^*]*\.\*\*`).ReplaceAllString(decision, "")
	sentences := regexp.MustCompile(`\S.*?[.](?:\s|$)`).FindAllString(decision, -1)
	require.Greater(t, len(sentences), 20)
	begins := func(sentence string) bool {
		return slices.ContainsFunc(sentences, func(s string) bool { return strings.HasPrefix(s, sentence) })
	}
	for _, s := range sentences {
		shown := false
		for _, rule := range rules {
			shown = shown || strings.HasPrefix(s, rule.sentence)
		}
		for begin, place := range elsewhere {
			if !strings.HasPrefix(s, begin) {
				continue
			}
			shown = true
			file, test, _ := strings.Cut(place, " ")
			source, err := os.ReadFile(filepath.Join(root, file))
			require.NoError(t, err)
			require.Contains(t, string(source), "func "+test+"(")
		}
		require.True(t, shown, "no row is about: %s", s)
	}
	for _, rule := range rules {
		require.True(t, begins(rule.sentence), "the decision does not say any more: %s", rule.sentence)
	}
	for begin := range elsewhere {
		require.True(t, begins(begin), "the decision does not say any more: %s", begin)
	}
}

// How an attempt ends that could not send everything, or found a fault of its own side.
func TestDecide_SaysWhatBecomesOfTheLanesHoweverTheAttemptEnds(t *testing.T) {
	away, lost := errors.New("the database is away"), relay.ErrClaimLost
	for name, c := range map[string]struct {
		facts          facts
		kept, released []int16
		dead           []int64
		err            error
		claim          bool
	}{
		"everything was accepted":                    {facts: known(relaying, answers{{5, nil}}), released: both},
		"some events were not sent":                  {facts: known(relaying, answers{{5, nil}}, whenStopped), released: both},
		"no other attempt":                           {facts: known(relaying, answers{{5, failsAlone}}, whenCancelled), released: both},
		"no other attempt of a recovery":             {facts: known(recovering, answers{{5, forbidden}}, whenCancelled), kept: both, err: context.Canceled},
		"nor is a probe a verdict then":              {facts: known(recovering, answers{{20, ambiguousPoison()}}, probed(100, 50), whenCancelled), kept: both, err: context.Canceled},
		"nor did it get through":                     {facts: known(recovering, nil, whenCancelled), kept: both, err: context.Canceled},
		"no other, but it got through":               {facts: known(recovering, answers{{1, nil}}, whenCancelled), released: both},
		"a recovery that could not tell":             {facts: known(recovering, nil, whenStopped), err: relay.ErrStopped},
		"a recovery that got one through":            {facts: known(recovering, answers{{1, nil}}, whenStopped), released: both},
		"a recovery that finds nothing":              {facts: known(recovering, nil), released: both},
		"poison does not show that it is back":       {facts: known(recovering, answers{{1, never}}, whenStopped), dead: ids(1, 1), err: relay.ErrStopped},
		"parking that could not tell":                {facts: known(parking, nil, whenStopped), err: relay.ErrStopped},
		"parking that finds nothing":                 {facts: known(parking, nil, upToABound), released: both},
		"parking to a bound that published":          {facts: known(parking, answers{{5, nil}}, upToABound), kept: both},
		"parking without a bound that published":     {facts: known(parking, answers{{5, nil}}), released: both},
		"parking that is cancelled":                  {facts: known(parking, answers{{1, forbidden}}, whenCancelled), kept: both, dead: ids(1, 1)},
		"acknowledgements that could not be settled": {facts: known(relaying, answers{{5, never}}, func(f *facts) { f.fault = fault{settling: away, claim: lost} }), err: away},
		"the claim was lost":                         {facts: known(recovering, answers{{5, never}}, withBorrowedLane, func(f *facts) { f.fault = fault{claim: lost, loading: away} }), released: []int16{1, 2, 7}, err: lost},
		"a page could not be loaded":                 {facts: known(relaying, answers{{5, never}}, func(f *facts) { f.fault = fault{loading: away} }), err: away},
		"it ended before it could load":              {facts: known(relaying, nil, func(f *facts) { f.fault = fault{early: true} }), claim: true},
		"the publisher failed":                       {facts: known(parking, answers{{5, never}}, func(f *facts) { f.fault = fault{publishing: away} }), err: away},
	} {
		t.Run(name, func(t *testing.T) {
			d := decide(c.facts)
			require.Equal(t, c.kept, d.keep)
			require.Equal(t, c.released, d.release)
			require.Equal(t, c.dead, idsOf(d.deadLetters))
			require.ErrorIs(t, d.err, c.err)
			require.Equal(t, c.claim, d.releaseClaim)
			require.False(t, d.isHandedOver)
			require.Nil(t, d.failure)
		})
	}
}

func TestDecide_WaitsForTheNextAttemptAsTheRefusalAsks(t *testing.T) {
	for name, c := range map[string]struct {
		facts facts
		pause time.Duration
		next  time.Duration // for people
	}{
		"by the retry policy":               {known(relaying, answers{{1, failsAlone}}), 0, 0},
		"by that of a recovery":             {known(recovering, answers{{1, silent}}, func(f *facts) { f.number = 3 }), 0, 4 * timing.RecoveryPauseFirst},
		"at least half":                     {known(relaying, answers{{1, throttled}}), throttleBackoff / 2, 0},
		"longer each time":                  {known(relaying, answers{{1, throttled}}, func(f *facts) { f.noted.Throttled = 2 }), 2 * throttleBackoff, 0},
		"with jitter, and a limit":          {known(relaying, answers{{1, throttled}}, func(f *facts) { f.noted.Throttled, f.jitter = 90, 0.5 }), throttleBackoffMax * 3 / 4, 0},
		"another worker may have the route": {known(recovering, answers{{1, noRoute}}), timing.RecoveryPauseFirst, timing.RecoveryPauseFirst},
		"or have it later":                  {known(recovering, answers{{1, noRoute}}, func(f *facts) { f.noted.AttemptsWithoutSuccess = 9 }), timing.RouteRetryPauseMost, timing.RouteRetryPauseMost},
		"the recovery begins at once":       {known(relaying, answers{{1, noRoute}}), 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			d := decide(c.facts)
			var r *attemptError
			require.ErrorAs(t, d.err, &r)
			require.Equal(t, c.pause, r.retryAfter)
			require.Equal(t, c.next, d.next)
		})
	}
}

func TestDecide_CountsDeadLettersThatAreBelievedWithoutEvidence(t *testing.T) {
	for name, c := range map[string]struct {
		facts    facts
		believed int
	}{
		"no other was accepted":      {known(relaying, answers{{2, ambiguousPoison()}}), 2},
		"another was sent before":    {known(relaying, answers{{2, ambiguousPoison()}, {1, nil}}, sentBefore), 2},
		"a probe proved it before":   {known(recovering, answers{{2, ambiguousPoison()}}, provedAgo(time.Second, 2)), 0},
		"they were never acceptable": {known(relaying, answers{{2, never}}), 0},
	} {
		t.Run(name, func(t *testing.T) {
			d := decide(c.facts)
			require.Len(t, c.facts.judge().believed, c.believed)
			require.Len(t, d.deadLetters, 2)
		})
	}
}
