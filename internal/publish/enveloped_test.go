package publish_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/publish"
)

const subscribed = "arn:aws:sns:eu-central-1:1:orders"

// subscriptionPage answers ListSubscriptionsByTopic: protocol, ARN and endpoint of each.
func subscriptionPage(token string, subscriptions ...[3]string) wireReply {
	members := ""
	for _, s := range subscriptions {
		members += fmt.Sprintf("<member><Protocol>%s</Protocol><SubscriptionArn>%s</SubscriptionArn><Endpoint>%s</Endpoint></member>", s[0], s[1], s[2])
	}
	return wireReply{Raw: "<ListSubscriptionsByTopicResponse><ListSubscriptionsByTopicResult><Subscriptions>" + members + "</Subscriptions>" + token +
		"</ListSubscriptionsByTopicResult></ListSubscriptionsByTopicResponse>"}
}

func rawDelivery(value string) wireReply {
	return wireReply{Raw: "<GetSubscriptionAttributesResponse><GetSubscriptionAttributesResult><Attributes><entry><key>RawMessageDelivery</key><value>" +
		value + "</value></entry></Attributes></GetSubscriptionAttributesResult></GetSubscriptionAttributesResponse>"}
}

var denied = wireReply{Status: 403, Error: &wireError{Code: "AuthorizationError", Message: "no"}}

func TestEnveloped_ListsSubscriptionsWithoutRawDelivery(t *testing.T) {
	w := newWire(t)
	w.other = func(action string, _ *http.Request, form url.Values) wireReply {
		switch action {
		case "ListSubscriptionsByTopic":
			require.Equal(t, subscribed, form.Get("TopicArn"))
			if form.Get("NextToken") == "" {
				return subscriptionPage("<NextToken>more</NextToken>", [3]string{"sqs", subscribed + ":raw", "q1"}, [3]string{"sqs", subscribed + ":plain", "q2"},
					[3]string{"https", "PendingConfirmation", "https://x"}, [3]string{"email", subscribed + ":mail", "a@b"}, [3]string{"lambda", subscribed + ":f", "f"})
			}
			return subscriptionPage("", [3]string{"sqs", subscribed + ":gone", "q3"}, [3]string{"https", subscribed + ":web", "https://me:hidden@example.com/hook?token=hidden"})
		case "GetSubscriptionAttributes":
			switch arn := form.Get("SubscriptionArn"); {
			case strings.HasSuffix(arn, ":raw"):
				return rawDelivery("true")
			case strings.HasSuffix(arn, ":gone"):
				return wireReply{Status: 404, Error: &wireError{Code: "NotFound", Message: "gone"}}
			default:
				return rawDelivery("false")
			}
		}
		return wireReply{}
	}
	found, err := w.publisher(publish.Destination{SNS: subscribed}).Enveloped(t.Context(), "orders")
	require.Equal(t, []string{subscribed + ":plain (sqs q2)", subscribed + ":web (https https://example.com/hook)"}, found, "it goes on after an error")
	require.ErrorIs(t, err, publish.ErrUntold)
	require.ErrorContains(t, err, "1 of 4 subscriptions")
}

func TestEnveloped_NamesThePermissionThatIsMissing(t *testing.T) {
	for _, missing := range []string{"ListSubscriptionsByTopic", "GetSubscriptionAttributes"} {
		w := newWire(t)
		w.other = func(action string, _ *http.Request, _ url.Values) wireReply {
			switch action {
			case missing:
				return denied
			case "ListSubscriptionsByTopic":
				return subscriptionPage("", [3]string{"sqs", subscribed + ":plain", "q2"})
			}
			return wireReply{}
		}
		found, err := w.publisher(publish.Destination{SNS: subscribed}).Enveloped(t.Context(), "orders")
		require.Empty(t, found)
		require.ErrorIs(t, err, publish.ErrUntold)
		require.ErrorContains(t, err, "allow the worker sns:"+missing)
	}
}

func TestEnveloped_AQueueHasNoSubscriptions(t *testing.T) {
	w := newWire(t)
	w.other = func(action string, _ *http.Request, _ url.Values) wireReply {
		require.NotContains(t, action, "Subscription")
		return wireReply{}
	}
	found, err := w.publisher(publish.Destination{SQS: "orders"}).Enveloped(t.Context(), "orders")
	require.NoError(t, err)
	require.Empty(t, found)
}
