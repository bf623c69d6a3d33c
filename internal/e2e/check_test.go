package e2e

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sns"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/testenv"
)

// check runs worker --check and returns what it prints and its exit status.
func (o *outbox) check(env []string, args ...string) (out string, status int) {
	o.t.Helper()
	cmd := exec.CommandContext(o.t.Context(), filepath.Join(o.programs, "worker"), append([]string{"--check"}, args...)...)
	cmd.Env = append(append([]string{}, o.env...), env...)
	b, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return string(b), exit.ExitCode()
	}
	require.NoError(o.t, err)
	return string(b), 0
}

// line is the one about a check.
func line(t *testing.T, out, check string) string {
	t.Helper()
	for l := range strings.Lines(out) {
		if _, rest, _ := strings.Cut(l, " "); strings.HasPrefix(strings.TrimLeft(rest, " "), check+" ") {
			return l
		}
	}
	t.Fatalf("no line about %s in\n%s", check, out)
	return ""
}

func TestCheck_SaysLineByLineThatAWorkerCouldStartAndStartsNothing(t *testing.T) {
	t.Parallel()
	q, r := newQueue(t, testenv.Name(t)), newQueue(t, testenv.Name(t)+".fifo")
	topic := testenv.Name(t)
	newTopic(t, topic, q)
	o := newOutbox(t, "topics:\n  audit: {sqs: "+q.name+"}\n  ledger: {sqs: "+r.name+"}\n  orders: {sns: "+topic+"}\n")
	o.write("audit", "a", 3, 1)
	as := []string{"DATABASE_URL=" + testenv.RoleURL(t, o.db, "outbox_relay")}
	out, status := o.check(as)
	require.Zero(t, status, out)
	for _, check := range []string{"configuration", "database", "session", "rights", "security", "state", "trigger", "temporal", "audit: destination", "ledger: destination", "orders: destination"} {
		require.True(t, strings.HasPrefix(line(t, out, check), "ok "), out)
	}
	require.Regexp(t, `arn:aws:sns:.*; if you configure this ARN, the worker does not have to look it up`, line(t, out, "orders: destination"))
	require.NotContains(t, out, "failed")

	out, status = o.check(as, "--json")
	require.Zero(t, status)
	var found struct {
		OK     bool
		Checks []struct{ State, Check, Topic, Detail string }
	}
	require.NoError(t, json.Unmarshal([]byte(out), &found))
	require.True(t, found.OK)
	require.Len(t, found.Checks, 11+2*3+1, "and the mode of the FIFO queue")
	require.Equal(t, "audit", found.Checks[11].Topic)

	require.Equal(t, 3, o.pending())
	require.Zero(t, o.count(`SELECT count(*) FROM outbox.lane WHERE leased_until IS NOT NULL`))
	require.Empty(t, q.receive(0, 0), "nothing was published")
	require.Empty(t, r.receive(0, 0))
}

func TestCheck_NamesFailuresAndChecksThatTheyLeaveUnknown(t *testing.T) {
	t.Parallel()
	q := newQueue(t, testenv.Name(t))
	proxy := newAWSProxy(t)
	o := newOutbox(t, "topics:\n  audit: {sqs: "+q.name+"}\n  orders: {sqs: there-is-no-such-queue}\n")
	out, status := o.check(nil)
	require.Equal(t, 1, status)
	require.Regexp(t, `^failed .*there-is-no-such-queue.*create it in`, line(t, out, "orders: destination"))
	require.Regexp(t, `^unknown .*not checked`, line(t, out, "orders: publish"))
	require.Regexp(t, `^ok `, line(t, out, "audit: destination"))

	proxy.answer(q.name, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/x-amz-json-1.0")
		w.WriteHeader(http.StatusForbidden)
		_, _ = io.WriteString(w, `{"__type":"com.amazonaws.sqs#AccessDeniedException","message":"no identity-based policy allows the sqs:sendmessage action"}`)
	})
	out, status = o.check([]string{"AWS_ENDPOINT_URL=" + proxy.url})
	require.Equal(t, 1, status)
	require.Regexp(t, `^failed .*AccessDenied.*sqs:sendmessage`, line(t, out, "audit: publish"))

	stranger := testenv.RoleURL(t, o.db, "outbox_producer")
	out, status = o.check([]string{"DATABASE_URL=" + stranger, "TEMPORAL_NAMESPACE=nowhere"})
	require.Equal(t, 1, status)
	require.Regexp(t, `^ok `, line(t, out, "database"))
	require.Regexp(t, `^failed .*DELETE pending.*grant outbox_relay`, line(t, out, "rights"))
	require.Regexp(t, `(?i)^failed .*nowhere`, line(t, out, "temporal"))

	out, status = o.check([]string{"DATABASE_URL=postgres://nobody@127.0.0.1:1/x", "TEMPORAL_ADDRESS=127.0.0.1:1"}, "--json")
	require.Equal(t, 1, status)
	require.Contains(t, out, `{"state":"failed","check":"database","detail":"connect to the database`)
	require.Contains(t, out, `{"state":"unknown","check":"rights"`)
	require.Contains(t, out, `{"state":"failed","check":"temporal","detail":"connect to Temporal`)

	out, status = o.check([]string{"DATABASE_URL=", "OUTBOX_LOG_FORMAT=xml"})
	require.Equal(t, 1, status)
	require.Equal(t, 2, strings.Count(out, "failed   configuration"), out)
	require.NotContains(t, out, "destination")

	out, _ = o.check([]string{"OUTBOX_CONFIG=/there/is/none"})
	require.Equal(t, 1, strings.Count(out, "failed"), out)
}

func TestCheck_FailsIfInsertedEventsDoNotBecomePending(t *testing.T) {
	t.Parallel()
	q := newQueue(t, testenv.Name(t))
	o := newOutbox(t, "topics:\n  orders: {sqs: "+q.name+"}\n")
	as := []string{"DATABASE_URL=" + testenv.RoleURL(t, o.db, "outbox_relay")}
	o.exec(`ALTER TABLE outbox.event DISABLE TRIGGER enqueue`)
	o.write("orders", "a", 3, 1)
	out, status := o.check(as)
	require.Equal(t, 1, status)
	require.Regexp(t, `^failed .*ENABLE TRIGGER enqueue.*starter replay`, line(t, out, "trigger"))
	require.Contains(t, o.starter("status"), "ENABLE TRIGGER enqueue")
	require.Contains(t, o.starter("status", "--json"), `"notEnqueued":"the trigger of outbox.event is disabled`)

	o.exec(`ALTER TABLE outbox.event ENABLE TRIGGER enqueue`)
	o.exec(`GRANT INSERT ON outbox.event_default TO outbox_producer`)
	out, status = o.check(as)
	require.Zero(t, status)
	require.Contains(t, out, "outbox_producer may insert into partitions")
	require.NotContains(t, o.starter("status", "--json"), "is disabled")
}

// A name that is misspelt was seen when the first batch of the topic had failed for good.
func TestCheck_NamesTopicsThatArePendingAndHaveNoRoute(t *testing.T) {
	t.Parallel()
	q := newQueue(t, testenv.Name(t))
	o := newOutbox(t, "topics:\n  audit: {sqs: "+q.name+"}\n  orders: {sqs: "+q.name+"}\n")
	o.write("orders", "a", 5, 2)
	as := []string{"DATABASE_URL=" + testenv.RoleURL(t, o.db, "outbox_relay")}
	out, status := o.check(as)
	require.Zero(t, status, out)
	require.NotContains(t, out, "route")

	o.write("odrers", "b", 7, 1)
	o.write("invoices", "c", 2, 2)
	out, status = o.check(as)
	require.Zero(t, status, "the other topics are published")
	require.Regexp(t, `^warning  odrers: route .*7 events in 1 lanes are pending, and OUTBOX_CONFIG has no topic of this name.*did you mean "orders"\?`, line(t, out, "odrers: route"))
	require.NotContains(t, line(t, out, "invoices: route"), "did you mean")
	require.Equal(t, 2, strings.Count(out, ": route"), out)

	o.exec(`INSERT INTO outbox.event (topic, type, payload) SELECT 'unknown-' || i, 'T', 'x' FROM generate_series(1, 100) i`)
	out, status = o.check(as)
	require.Zero(t, status)
	require.Equal(t, 20, strings.Count(out, ": route"), out)
	require.Contains(t, line(t, out, "route"), "warning ")
	require.Contains(t, out, "more topics than these 20")
}

func TestCheck_WarnsOfSubscriptionsThatGetAnEnvelope(t *testing.T) {
	t.Parallel()
	raw, wrapped, topic := newQueue(t, testenv.Name(t)), newQueue(t, testenv.Name(t)+"-w"), testenv.Name(t)
	newTopic(t, topic, raw)
	o := newOutbox(t, "topics:\n  orders: {sns: "+topic+"}\n")
	out, status := o.check(nil)
	require.Zero(t, status)
	require.NotContains(t, out, "subscription")

	c := sns.NewFromConfig(testenv.AWS(t))
	found, err := c.CreateTopic(t.Context(), &sns.CreateTopicInput{Name: &topic})
	require.NoError(t, err)
	attributes, err := wrapped.sqs.GetQueueAttributes(t.Context(), &sqs.GetQueueAttributesInput{
		QueueUrl: &wrapped.url, AttributeNames: []types.QueueAttributeName{types.QueueAttributeNameQueueArn},
	})
	require.NoError(t, err)
	arn := attributes.Attributes["QueueArn"]
	subscribed, err := c.Subscribe(t.Context(), &sns.SubscribeInput{TopicArn: found.TopicArn, Protocol: aws.String("sqs"), Endpoint: &arn, ReturnSubscriptionArn: true})
	require.NoError(t, err)
	out, status = o.check(nil)
	require.Zero(t, status, "publishing works")
	require.Regexp(t, `^warning .*1 subscriptions have no raw message delivery, so SNS wraps the payload`, line(t, out, "orders: subscription"))
	require.Contains(t, line(t, out, "orders: subscription"), arn)
	require.NotContains(t, out, raw.name+")")

	// As the warning says, the payload arrives in an envelope there.
	o.work()
	o.schedule()
	o.write("orders", "e", 1, 1)
	require.Equal(t, "e-1", aws.ToString(raw.receive(1, 30*time.Second)[0].Body))
	var envelope struct{ Message string }
	require.NoError(t, json.Unmarshal([]byte(aws.ToString(wrapped.receive(1, 30*time.Second)[0].Body)), &envelope))
	require.Equal(t, "e-1", envelope.Message)

	_, err = c.SetSubscriptionAttributes(t.Context(), &sns.SetSubscriptionAttributesInput{
		SubscriptionArn: subscribed.SubscriptionArn, AttributeName: aws.String("RawMessageDelivery"), AttributeValue: aws.String("true"),
	})
	require.NoError(t, err)
	out, _ = o.check(nil)
	require.NotContains(t, out, "subscription")
}
