package publish_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/publish"
	"github.com/temporal-outbox/relay/internal/relay"
)

// account is the SNS of an account with many topics: each page takes its time.
type account struct {
	page time.Duration // how long one takes
	// denied is true where the caller may not read attributes.
	denied bool

	mu     sync.Mutex
	topics []string
	lists  []time.Time // when ListTopics was called
	asked  int         // calls of GetTopicAttributes
	broken bool        // ListTopics drops the connection
	tokens map[string]bool
	stale  bool // tokens are no longer good
}

func newAccount(t *testing.T, topics int, page time.Duration) (*account, *wire) {
	t.Helper()
	a := &account{page: page, tokens: map[string]bool{}}
	for i := range topics {
		a.topics = append(a.topics, fmt.Sprintf("topic-%d", i))
	}
	w := newWire(t)
	w.other = a.answer
	return a, w
}

const accountARN = "arn:aws:sns:eu-central-1:111122223333:"

func (a *account) answer(action string, _ *http.Request, form url.Values) wireReply {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch action {
	case "ListTopics":
		a.lists = append(a.lists, time.Now())
		page := a.page
		a.mu.Unlock()
		time.Sleep(page)
		a.mu.Lock()
		if a.broken {
			return wireReply{Drop: true}
		}
		from, _ := strconv.Atoi(form.Get("NextToken"))
		if from > 0 && a.stale {
			return wireReply{Status: 400, Error: &wireError{Code: "InvalidParameter", Message: "Invalid parameter: NextToken"}}
		}
		to := min(from+100, len(a.topics))
		members, next := "", ""
		for _, name := range a.topics[min(from, to):to] {
			members += "<member><TopicArn>" + accountARN + name + "</TopicArn></member>"
		}
		if to < len(a.topics) {
			next = "<NextToken>" + strconv.Itoa(to) + "</NextToken>"
		}
		return wireReply{Raw: "<ListTopicsResponse><ListTopicsResult><Topics>" + members + "</Topics>" + next + "</ListTopicsResult></ListTopicsResponse>"}
	case "GetTopicAttributes":
		a.asked++
		arn := form.Get("TopicArn")
		if a.denied {
			return wireReply{Status: 403, Error: &wireError{Code: "AuthorizationError", Message: "not you"}}
		}
		for _, name := range a.topics {
			if arn == accountARN+name {
				return wireReply{Raw: "<GetTopicAttributesResponse><GetTopicAttributesResult><Attributes><entry><key>TopicArn</key><value>" + arn +
					"</value></entry></Attributes></GetTopicAttributesResult></GetTopicAttributesResponse>"}
			}
		}
		return wireReply{Status: 404, Error: &wireError{Code: "NotFound", Message: "Topic does not exist"}}
	}
	return wireReply{} // SQS
}

func (a *account) listed() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.lists)
}

func (a *account) set(change func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	change()
}

func (w *wire) topics(names ...string) *publish.Publisher {
	topics := map[string]publish.Destination{"queue": {SQS: "queue"}}
	for _, name := range names {
		topics[name] = publish.Destination{SNS: name}
	}
	p, err := publish.New(publish.Config{AWS: w.aws(), Topics: topics})
	require.NoError(w.t, err)
	return p
}

func TestListing_ANameIsFoundAtOnceHoweverManyTopicsThereAre(t *testing.T) {
	a, w := newAccount(t, 5000, 100*time.Millisecond)
	p := w.topics("topic-4999", "topic-2", "misspelt")
	r, err := p.Resolve(t.Context(), "topic-4999")
	require.NoError(t, err)
	require.Equal(t, accountARN+"topic-4999", r.Address)
	_, err = p.Resolve(t.Context(), "topic-2")
	require.NoError(t, err)
	_, err = p.Resolve(t.Context(), "misspelt")
	require.ErrorContains(t, err, "TopicNotFound: there is no topic "+accountARN+"misspelt; create it in eu-central-1")
	require.Equal(t, 1, a.listed())
	require.Equal(t, 3, a.asked)

	a.set(func() { a.topics = append(a.topics, "misspelt") })
	_, err = p.Resolve(t.Context(), "misspelt")
	require.NoError(t, err, "a topic that is added is found at once")
	a.set(func() { a.topics = a.topics[:4999] })
	_, err = w.topics("topic-4999").Resolve(t.Context(), "topic-4999")
	require.ErrorContains(t, err, "TopicNotFound")
}

// The shortcut needs a permission that publishing does not.
func TestListing_GoesOnAcrossCallsWhereAttributesMayNotBeRead(t *testing.T) {
	t.Parallel()
	a, w := newAccount(t, 5000, 100*time.Millisecond)
	a.denied = true
	p := w.topics("topic-4999", "topic-450", "misspelt")
	began := time.Now()
	_, err := p.Resolve(t.Context(), "topic-4999")
	require.Regexp(t, `ListingTopics: listing SNS topics: [\d,]+ read, page \d+; the next attempt reads on; give the topic's ARN`, err.Error())
	require.NotContains(t, err.Error(), "network")
	_, err = p.Resolve(t.Context(), "topic-450")
	require.NoError(t, err, "it is in what was read")
	before := time.Now()
	_, err = p.Resolve(t.Context(), "queue")
	require.NoError(t, err)
	require.Less(t, time.Since(before), 3*time.Second, "no other destination waits")

	var wg sync.WaitGroup
	for _, topic := range []string{"topic-4999", "misspelt"} {
		wg.Go(func() {
			var err error
			for range 10 {
				if _, err = p.Resolve(t.Context(), topic); err == nil || !strings.Contains(err.Error(), relay.CodeListing) {
					break
				}
			}
			if topic == "misspelt" {
				assert.ErrorContains(t, err, "TopicNotFound: none of the 5,000 topics in region eu-central-1 has that name")
			} else {
				assert.NoError(t, err)
			}
		})
	}
	wg.Wait()
	t.Logf("%d pages in %v", a.listed(), time.Since(began).Round(time.Millisecond))
	require.Equal(t, 50, a.listed(), "no page is read twice")
	a.set(func() { require.Less(t, busiest(a.lists), 11, "of the 30 calls that the account has in a second") })
	for range 20 {
		_, err = p.Resolve(t.Context(), "misspelt")
		require.ErrorContains(t, err, "TopicNotFound")
	}
	require.Equal(t, 50, a.listed(), "what is known is kept")
}

// busiest is how many calls there were in the busiest second.
func busiest(calls []time.Time) (most int) {
	for i := range calls {
		n := 0
		for _, c := range calls[i:] {
			if c.Sub(calls[i]) < time.Second {
				n++
			}
		}
		most = max(most, n)
	}
	return most
}

func TestListing_BlamesTheNetworkOnlyWhereAPageIsNotAnswered(t *testing.T) {
	t.Parallel()
	a, w := newAccount(t, 500, 0)
	a.denied, a.broken = true, true
	p := w.topics("topic-450")
	_, err := p.Resolve(t.Context(), "topic-450")
	require.ErrorContains(t, err, relay.CodeConnection)
	require.ErrorContains(t, err, "check the network")

	a.set(func() { a.broken, a.page = false, 5*time.Second })
	_, err = p.Resolve(t.Context(), "topic-450")
	require.ErrorContains(t, err, "Timeout: listing SNS topics: 0 read, page 1 has had no answer for")
	a.set(func() { a.page = 0 })
	require.Eventually(t, func() bool {
		_, err = p.Resolve(t.Context(), "topic-450")
		return err == nil
	}, 20*time.Second, 10*time.Millisecond)
}

func TestListing_BeginsAnewWhereItsTokenIsNoLongerGood(t *testing.T) {
	t.Parallel()
	a, w := newAccount(t, 500, 0)
	a.denied, a.stale = true, true
	p := w.topics("topic-450")
	_, err := p.Resolve(t.Context(), "topic-450")
	require.ErrorContains(t, err, "InvalidParameter")
	a.set(func() { a.stale = false })
	_, err = p.Resolve(t.Context(), "topic-450")
	require.NoError(t, err)
	require.Equal(t, 1+1+5, a.listed())
}
