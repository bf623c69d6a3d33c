package publish_test

import (
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/publish"
	"github.com/temporal-outbox/relay/internal/relay"
)

// iamAction is the permission that an API operation needs, where it has not the
// operation's own name.
var iamAction = map[string]string{
	"sns:PublishBatch":     "sns:Publish",
	"sqs:SendMessageBatch": "sqs:SendMessage",
}

// policy reads the actions of docs/security.md's policy, by statement.
func policy(t *testing.T) map[string][]string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "security.md"))
	require.NoError(t, err)
	block := regexp.MustCompile("(?s)```json\n(.*?)```").FindSubmatch(text)
	require.NotNil(t, block)
	var document struct {
		Statement []struct {
			Sid    string
			Action []string
		}
	}
	require.NoError(t, json.Unmarshal(block[1], &document))
	actions := map[string][]string{}
	for _, s := range document.Statement {
		actions[s.Sid] = s.Action
	}
	return actions
}

// called is what a publisher asks AWS for, as permissions: while it resolves its
// topic, publishes, is rejected so that it divides requests, and looks its
// limit up again.
func called(t *testing.T, d publish.Destination) []string {
	t.Helper()
	w := newWire(t)
	var mu sync.Mutex
	actions := map[string]bool{}
	note := func(service publish.Service, operation string) {
		mu.Lock()
		defer mu.Unlock()
		name := map[publish.Service]string{publish.SNS: "sns:", publish.SQS: "sqs:"}[service] + operation
		if permission := iamAction[name]; permission != "" {
			name = permission
		}
		actions[name] = true
	}
	service := publish.SNS
	if d.SQS != "" {
		service = publish.SQS
	}
	w.other = func(operation string, _ *http.Request, _ url.Values) wireReply {
		note(service, operation)
		if operation == "ListTopics" {
			return wireReply{Raw: topicPage("", "orders")}
		}
		return wireReply{}
	}
	w.publish = func(b wireBatch) wireReply {
		note(b.Service, b.Action)
		if len(b.Entries) > 1 {
			return wireReply{Status: 400, Error: &wireError{Code: "InvalidParameter", Message: "no"}}
		}
		return wireReply{}
	}
	p := w.publisher(d, func(c *publish.Config) { c.RefreshAfter = 1 })
	for range 2 {
		events := make(chan []relay.Event, 1)
		events <- []relay.Event{{Ref: relay.Ref{ID: 1}, EventID: "a", Type: "T", ContentType: "c", Payload: "x"}, {Ref: relay.Ref{ID: 2}, EventID: "b", Type: "T", ContentType: "c", Payload: "y"}}
		close(events)
		_, err := p.Publish(t.Context(), publish.Request{Topic: "orders", Events: events, Report: func([]relay.Outcome) {}})
		require.NoError(t, err)
	}
	return slices.Sorted(maps.Keys(actions))
}

func TestPolicy_AllowsTheCallsOfThePublisherAndNoMore(t *testing.T) {
	statements := policy(t)
	for name, c := range map[string]struct {
		destination publish.Destination
		statements  []string
	}{
		"topic by ARN":  {publish.Destination{SNS: "arn:aws:sns:eu-central-1:1:orders"}, []string{"PublishToTopics"}},
		"topic by name": {publish.Destination{SNS: "orders"}, []string{"PublishToTopics", "FindTopicsByName"}},
		"queue by URL":  {publish.Destination{SQS: "https://queue.example/1/orders"}, []string{"SendToQueues"}},
		"queue by name": {publish.Destination{SQS: "orders"}, []string{"SendToQueues", "FindQueuesByName"}},
	} {
		t.Run(name, func(t *testing.T) {
			var allowed []string
			for _, sid := range c.statements {
				require.Contains(t, statements, sid)
				allowed = append(allowed, statements[sid]...)
			}
			require.ElementsMatch(t, allowed, called(t, c.destination))
		})
	}
	t.Run("subscriptions of a topic", func(t *testing.T) {
		w := newWire(t)
		var called []string
		w.other = func(action string, _ *http.Request, _ url.Values) wireReply {
			switch action {
			case "ListSubscriptionsByTopic":
				called = append(called, "sns:"+action)
				return subscriptionPage("", [3]string{"sqs", subscribed + ":x", "q"})
			case "GetSubscriptionAttributes":
				called = append(called, "sns:"+action)
				return rawDelivery("true")
			}
			return wireReply{}
		}
		found, err := w.publisher(publish.Destination{SNS: subscribed}).Enveloped(t.Context(), "orders")
		require.NoError(t, err)
		require.Empty(t, found)
		require.ElementsMatch(t, slices.Concat(statements["CheckSubscriptions"], statements["CheckEachSubscription"]), called)
	})
	// SNS and SQS call KMS with the worker's rights; that cannot be seen here.
	require.ElementsMatch(t, []string{
		"PublishToTopics", "FindTopicsByName", "SendToQueues", "FindQueuesByName", "UseKeysOfEncryptedDestinations",
		"CheckSubscriptions", "CheckEachSubscription",
	},
		slices.Collect(maps.Keys(statements)), "each statement is compared with what is called")
}
