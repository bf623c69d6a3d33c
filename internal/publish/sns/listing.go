package sns

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sns"

	"github.com/temporal-outbox/relay/internal/publish/awsapi"
	"github.com/temporal-outbox/relay/internal/publish/errorcode"
	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/timing"
)

const (
	// pageEvery is the least time between two pages of the listing, on average, and
	// pageBurst how many may come without it. AWS allows an account 30 calls of
	// ListTopics a second, for all its programs.
	// https://docs.aws.amazon.com/sns/latest/api/API_ListTopics.html
	pageEvery = 200 * time.Millisecond
	pageBurst = 5
	// slowPage is how long one page may take before the network is suspected.
	slowPage = 3 * time.Second
)

// listing finds SNS topics of the account by name. There is no call that does: the API
// lists ARNs, a hundred at a time. (CreateTopic would answer, but it creates a topic
// whose name is misspelt.) One listing serves all names. It has no time limit: the
// next caller goes on where the last one stopped.
type listing struct {
	read func(ctx context.Context, token *string) (*sns.ListTopicsOutput, error)
	// timeout bounds one page.
	timeout time.Duration
	now     func() time.Time

	mu       sync.Mutex
	arns     map[string]string // by name, of the pages read
	prefix   string            // of all ARNs: partition, region and account
	mixed    bool              // they differ
	pages    int
	token    *string // of the next page, once one is read
	complete bool
	at       time.Time // when the last page was read
	next     time.Time // when the next page may be asked for, on average
	page     *listingPage
}

// listingPage is one call under way.
type listingPage struct {
	began time.Time
	done  chan struct{}
	err   error
}

// find returns the ARN of a topic, or an error that says whether no topic has the
// name, the listing is not complete yet, or AWS did not answer.
func (l *listing) find(ctx context.Context, name, region string) (string, error) {
	for {
		arn, page, err := l.look(name, region)
		if page == nil {
			return arn, err
		}
		select {
		case <-page.done:
			if page.err != nil {
				return "", page.err
			}
		case <-ctx.Done():
			return "", l.unfinished(ctx, page)
		}
	}
}

// look answers from the pages that are read, or returns the page to wait for.
func (l *listing) look(name, region string) (arn string, page *listingPage, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.now().Sub(l.at) > timing.ListingAge && l.page == nil {
		l.arns, l.pages, l.token, l.complete = make(map[string]string), 0, nil, false
	}
	if arn := l.arns[name]; arn != "" {
		return arn, nil, nil
	}
	if l.complete {
		return "", nil, errorcode.New(relay.CodeNoTopic, fmt.Sprintf("none of the %s topics in region %s has that name", thousands(len(l.arns)), region))
	}
	if l.page == nil {
		l.page = &listingPage{began: l.now(), done: make(chan struct{})}
		go l.readPage(l.page)
	}
	return "", l.page, nil
}

// owner returns what the ARNs of all topics begin with, once a page is read, and
// whether that is known.
func (l *listing) owner() (prefix string, known bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.prefix, l.prefix != "" && !l.mixed
}

// first waits for the first page, so that owner has an answer.
func (l *listing) first(ctx context.Context) error {
	l.mu.Lock()
	read := l.prefix != ""
	l.mu.Unlock()
	if read {
		return nil
	}
	_, page, err := l.look("", "")
	if page == nil || err != nil {
		return nil //nolint:nilerr // the account has no topic, and find says so
	}
	select {
	case <-page.done:
		return page.err
	case <-ctx.Done():
		return l.unfinished(ctx, page)
	}
}

// readPage reads the next page. It outlives the caller that asked for it, because
// others may wait for the same page, and the next caller goes on behind it.
func (l *listing) readPage(page *listingPage) {
	l.mu.Lock()
	token := l.token
	now := l.now()
	if earliest := now.Add(-pageBurst * pageEvery); l.next.Before(earliest) {
		l.next = earliest
	}
	l.next = l.next.Add(pageEvery)
	wait := l.next.Sub(now)
	l.mu.Unlock()
	time.Sleep(max(0, wait))

	ctx, cancel := context.WithTimeout(context.Background(), l.timeout)
	defer cancel()
	l.mu.Lock()
	page.began = l.now()
	l.mu.Unlock()
	out, err := l.read(ctx, token)
	l.mu.Lock()
	defer l.mu.Unlock()
	defer close(page.done)
	l.page = nil
	if err != nil {
		if token != nil && awsapi.Error(err).Class == relay.ClassPoison {
			l.token, l.pages, l.arns = nil, 0, make(map[string]string) // the token is no longer good
		}
		page.err = err
		return
	}
	for _, t := range out.Topics {
		arn := aws.ToString(t.TopicArn)
		i := strings.LastIndexByte(arn, ':') + 1
		if i == 0 {
			continue
		}
		l.arns[arn[i:]] = arn
		l.mixed = l.mixed || l.prefix != "" && l.prefix != arn[:i]
		l.prefix = arn[:i]
	}
	l.pages++
	l.at = l.now()
	l.token = out.NextToken
	l.complete = aws.ToString(out.NextToken) == ""
}

// unfinished says how far the listing is when a caller stops waiting. It blames the
// network only if the page under way is late.
func (l *listing) unfinished(ctx context.Context, page *listingPage) error {
	if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return ctx.Err()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	progress := fmt.Sprintf("listing SNS topics: %s read, page %d", thousands(len(l.arns)), l.pages+1)
	if late := l.now().Sub(page.began); late >= slowPage {
		return errorcode.New(relay.CodeTimeout, fmt.Sprintf("%s has had no answer for %s", progress, late.Round(100*time.Millisecond)))
	}
	return errorcode.New(relay.CodeListing, progress)
}

// thousands writes a number the way people read it: 3,100.
func thousands(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
