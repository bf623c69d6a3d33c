package sink

import (
	"fmt"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/sns"
	snstypes "github.com/aws/aws-sdk-go-v2/service/sns/types"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) {
	RunIfChild()
	os.Exit(m.Run())
}

// serving is a sink in this process, and a configuration of the SDK for it.
func serving(t testing.TB) (*Server, aws.Config) {
	s := New()
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	return s, config(server.URL)
}

func config(url string) aws.Config {
	return aws.Config{
		Region: region, BaseEndpoint: &url, RetryMaxAttempts: 1, AppID: "w7",
		Credentials: credentials.NewStaticCredentialsProvider("test", "test", ""),
	}
}

// body is a payload as the benchmark writes it, with characters that JSON and forms escape.
func body(n int) string {
	return fmt.Sprintf(`{"marker":"bench-%07d-","pad":"a \\ \" & = é %s"}`, n, strings.Repeat("x", 100))
}

func sqsBatch(url string, from, n int, group string) *sqs.SendMessageBatchInput {
	in := &sqs.SendMessageBatchInput{QueueUrl: &url}
	for i := range n {
		e := types.SendMessageBatchRequestEntry{
			Id: aws.String(fmt.Sprint(i)), MessageBody: aws.String(body(from + i)),
			MessageAttributes: map[string]types.MessageAttributeValue{
				"Id": {DataType: aws.String("String"), StringValue: aws.String(`{"MessageBody":"bench-9999999-"}`)},
			},
		}
		if group != "" {
			e.MessageGroupId, e.MessageDeduplicationId = &group, aws.String(fmt.Sprint(from+i))
		}
		in.Entries = append(in.Entries, e)
	}
	return in
}

func TestServer_AnswersSQSAsTheSDKChecksIt(t *testing.T) {
	s, cfg := serving(t)
	s.Checksums = true // the SDK compares them
	s.Reset(30)
	client := sqs.NewFromConfig(cfg)
	found, err := client.GetQueueUrl(t.Context(), &sqs.GetQueueUrlInput{QueueName: aws.String("orders")})
	require.NoError(t, err)
	attributes, err := client.GetQueueAttributes(t.Context(), &sqs.GetQueueAttributesInput{QueueUrl: found.QueueUrl})
	require.NoError(t, err)
	require.Equal(t, "1048576", attributes.Attributes["MaximumMessageSize"])

	out, err := client.SendMessageBatch(t.Context(), sqsBatch(*found.QueueUrl, 3, 10, ""))
	require.NoError(t, err)
	require.Empty(t, out.Failed)
	ids := map[string]bool{}
	for i, e := range out.Successful {
		require.Equal(t, fmt.Sprint(i), *e.Id)
		require.Len(t, *e.MessageId, 36)
		require.NotNil(t, e.MD5OfMessageBody)
		ids[*e.MessageId] = true
	}
	require.Len(t, ids, 10)
	single, err := client.SendMessage(t.Context(), &sqs.SendMessageInput{QueueUrl: found.QueueUrl, MessageBody: aws.String(body(20))})
	require.NoError(t, err)
	require.NotNil(t, single.MD5OfMessageBody)

	acks := s.record.Load().acks
	for n := range 30 {
		want := n >= 3 && n < 13 || n == 20
		require.Equal(t, want, acks[n].Load() != 0, "event %d", n)
	}
	require.Equal(t, 11, s.record.Load().state().Accepted)
}

func TestServer_AnswersSNSAsTheSDKReadsIt(t *testing.T) {
	s, cfg := serving(t)
	s.Reset(20)
	client := sns.NewFromConfig(cfg)
	topics, err := client.ListTopics(t.Context(), &sns.ListTopicsInput{})
	require.NoError(t, err)
	require.NotEmpty(t, topics.Topics)
	arn := ARN("orders")
	attributes, err := client.GetTopicAttributes(t.Context(), &sns.GetTopicAttributesInput{TopicArn: &arn})
	require.NoError(t, err)
	require.Equal(t, arn, attributes.Attributes["TopicArn"])

	in := &sns.PublishBatchInput{TopicArn: &arn}
	for i := range 10 {
		in.PublishBatchRequestEntries = append(in.PublishBatchRequestEntries, snstypes.PublishBatchRequestEntry{
			Id: aws.String(fmt.Sprint(i)), Message: aws.String(body(i)),
			MessageAttributes: map[string]snstypes.MessageAttributeValue{"a": {DataType: aws.String("String"), StringValue: aws.String("b")}},
		})
	}
	out, err := client.PublishBatch(t.Context(), in)
	require.NoError(t, err)
	require.Empty(t, out.Failed)
	require.Len(t, out.Successful, 10)
	for i, e := range out.Successful {
		require.Equal(t, fmt.Sprint(i), *e.Id)
		require.Len(t, *e.MessageId, 36)
		require.NotZero(t, s.record.Load().acks[i].Load(), "event %d", i)
	}
	require.NotNil(t, s.queues["orders"], "its name is that of the ARN")
}

func TestServer_CountsRepetitionsAndDisorderOfAGroup(t *testing.T) {
	s, cfg := serving(t)
	s.Reset(100)
	client := sqs.NewFromConfig(cfg)
	send := func(queue, group string, n int) {
		_, err := client.SendMessageBatch(t.Context(), sqsBatch("http://sink/0/"+queue, n, 1, group))
		require.NoError(t, err)
	}
	for _, n := range []int{5, 7, 5} {
		send("orders.fifo", "a", n)
	}
	send("orders.fifo", "b", 2) // of another group
	send("letters.fifo", "a", 1)
	send("orders", "a", 3) // not ordered
	state := s.record.Load().state()
	require.Equal(t, 1, state.Again)
	require.Zero(t, state.Disorder)
	send("orders.fifo", "a", 6)
	require.Equal(t, 1, s.record.Load().state().Disorder)
}

func TestServer_DelaysAndRefusesByQueue(t *testing.T) {
	s, cfg := serving(t)
	client := sqs.NewFromConfig(cfg)
	send := func(queue string) (time.Duration, error) {
		began := time.Now()
		_, err := client.SendMessageBatch(t.Context(), sqsBatch("http://sink/0/"+queue, 0, 1, ""))
		return time.Since(began), err
	}
	s.Behave("", Behaviour{Delay: 30 * time.Millisecond})
	s.Behave("fast", Behaviour{})
	s.Behave("away", Behaviour{Refuse: true})
	took, err := send("slow")
	require.NoError(t, err)
	require.GreaterOrEqual(t, took, 30*time.Millisecond)
	_, err = send("fast")
	require.NoError(t, err)
	_, err = send("away")
	require.ErrorContains(t, err, "ServiceUnavailable")
	s.Behave("", Behaviour{})
	_, err = send("away")
	require.NoError(t, err)
	require.Equal(t, 1, s.record.Load().state().Refused)
}

func TestServer_RefusesABatchWithoutEntries(t *testing.T) {
	_, cfg := serving(t)
	_, err := sqs.NewFromConfig(cfg).SendMessageBatch(t.Context(), &sqs.SendMessageBatchInput{
		QueueUrl: aws.String("http://sink/0/q"), Entries: []types.SendMessageBatchRequestEntry{},
	})
	require.ErrorContains(t, err, "EmptyBatchRequest")
	_, err = sns.NewFromConfig(cfg).PublishBatch(t.Context(), &sns.PublishBatchInput{
		TopicArn: aws.String(ARN("t")), PublishBatchRequestEntries: []snstypes.PublishBatchRequestEntry{},
	})
	require.ErrorContains(t, err, "EmptyBatchRequest")
}

func TestParseBatch_RefusesTextThatIsNoJSON(t *testing.T) {
	for _, text := range []string{"", "{", `{"Entries"`, `{"Entries":[`, `{"Entries":[{"Id":"0`, `{"QueueUrl":}`, `[]`, `{"a":1 "b":2}`} {
		var r request
		require.Error(t, r.parseBatch([]byte(text)), "%q", text)
	}
}

func TestNumber_FindsTheMarkNearTheBeginning(t *testing.T) {
	for text, want := range map[string]int{
		`{\"marker\":\"bench-0000042-\"`:       42,
		`%7B%22marker%22%3A%22bench-12345678-`: 12345678,
		`bench--`:                              -1,
		`bench-12`:                             -1,
		`bench-1x-`:                            -1,
		``:                                     -1,
		strings.Repeat("x", markWithin) + `bench-1-`: -1,
	} {
		require.Equal(t, want, number([]byte(text)), text)
	}
}

func TestProcess_ServesAndReportsTheTimesOfEvents(t *testing.T) {
	p, err := Start(t.Context())
	require.NoError(t, err)
	t.Cleanup(p.Close)
	require.NoError(t, p.Reset(t.Context(), 20))
	require.NoError(t, p.Behave(t.Context(), "orders", Behaviour{Delay: 20 * time.Millisecond}))
	before := time.Now()
	_, err = sqs.NewFromConfig(config(p.URL)).SendMessageBatch(t.Context(), sqsBatch("http://sink/0/orders", 4, 2, ""))
	require.NoError(t, err)
	acks, err := p.Acks(t.Context(), 3, 4)
	require.NoError(t, err)
	require.Zero(t, acks[0].At)
	require.Zero(t, acks[3].At)
	for _, ack := range acks[1:3] {
		require.WithinRange(t, ack.At, before.Add(19*time.Millisecond), time.Now())
		require.Equal(t, 7, ack.By, "the client's application id")
	}
	state, err := p.State(t.Context())
	require.NoError(t, err)
	require.Equal(t, 2, state.Accepted)
	require.Equal(t, 1, state.Requests)
	require.Equal(t, 1, state.InFlight)
	require.WithinDuration(t, acks[1].At, state.First, time.Millisecond)
}

// A batch of ten usual events must cost the sink far less than it costs the SDK.
func BenchmarkServer_AnswersABatch(b *testing.B) {
	_, cfg := serving(b)
	in := sqsBatch("http://sink/0/orders", 0, 10, "")
	client := sqs.NewFromConfig(cfg)
	b.Run("parse", func(b *testing.B) {
		text := []byte(`{"Entries":[` + strings.TrimSuffix(strings.Repeat(`{"Id":"0","MessageAttributes":{"event_id":{"DataType":"String","StringValue":"x"}},"MessageBody":"`+strings.Repeat(`bench-0000001-xyz\"`, 30)+`"},`, 10), ",") + `],"QueueUrl":"http://sink/0/orders"}`)
		var r request
		for b.Loop() {
			if err := r.parseBatch(text); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("round trip", func(b *testing.B) {
		for b.Loop() {
			if _, err := client.SendMessageBatch(b.Context(), in); err != nil {
				b.Fatal(err)
			}
		}
	})
}
