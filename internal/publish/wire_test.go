package publish_test

import (
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/publish"
)

// wire speaks enough of SNS's and SQS's protocols to answer in ways that no real
// part can be made to.
type wire struct {
	*httptest.Server
	t testing.TB
	// publish answers batch requests. Default: all entries are accepted.
	publish func(wireBatch) wireReply
	// other answers everything else. Default: attributes without a limit, and
	// the names that were asked for exist.
	other func(action string, r *http.Request, form url.Values) wireReply
	calls atomic.Int64 // batch requests received
}

// wireBatch is a PublishBatch or SendMessageBatch request.
type wireBatch struct {
	Action  string
	Service publish.Service
	Address string // TopicArn or QueueUrl
	Region  string // that the request is signed for
	Call    int    // 1 for the server's first batch
	Entries []wireEntry
}

type wireEntry struct {
	ID, Body     string
	Group, Dedup *string // nil where the request does not mention one
	Attributes   map[string]string
	System       map[string]string // system attributes
}

// wireReply is what to answer. The zero value accepts everything.
type wireReply struct {
	Fail  map[string]wireError // by entry id
	Omit  map[string]bool      // entries to leave out of both lists
	Extra []string             // ids to claim as accepted on top
	Error *wireError           // the request fails as a whole
	Raw   string               // this body, with status Status or 200
	// Status is the HTTP status of Error or Raw.
	Status int
	// Drop closes the connection instead of answering.
	Drop bool
}

type wireError struct {
	Code, Message string
	SenderFault   bool
}

func newWire(t testing.TB) *wire {
	w := &wire{t: t}
	w.publish = func(wireBatch) wireReply { return wireReply{} }
	w.other = func(string, *http.Request, url.Values) wireReply { return wireReply{} }
	w.Server = httptest.NewServer(w)
	t.Cleanup(w.Close)
	return w
}

func (w *wire) aws() aws.Config {
	return aws.Config{
		Region: "eu-central-1", BaseEndpoint: &w.URL,
		Credentials: credentials.NewStaticCredentialsProvider("id", "secret", ""),
	}
}

// publisher returns a publisher with one topic, "orders".
func (w *wire) publisher(d publish.Destination, change ...func(*publish.Config)) *publish.Publisher {
	cfg := publish.Config{AWS: w.aws(), Topics: map[string]publish.Destination{"orders": d}}
	for _, f := range change {
		f(&cfg)
	}
	p, err := publish.New(cfg)
	require.NoError(w.t, err)
	return p
}

func (w *wire) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the client gave up
	}
	// Credential=id/20260101/eu-central-1/sns/aws4_request
	scope := strings.Split(r.Header.Get("Authorization"), "/")
	batch := wireBatch{Service: publish.SNS, Region: scope[2]}
	form, _ := url.ParseQuery(string(body))
	action := form.Get("Action")
	if target, ok := strings.CutPrefix(r.Header.Get("X-Amz-Target"), "AmazonSQS."); ok {
		action, batch.Service = target, publish.SQS
		form = nil
		batch.readSQS(w.t, body)
	} else {
		batch.readSNS(form)
	}
	batch.Action = action
	var reply wireReply
	if strings.HasSuffix(action, "Batch") {
		batch.Call = int(w.calls.Add(1))
		reply = w.publish(batch)
	} else {
		reply = w.other(action, r, form)
	}
	write(rw, batch, action, reply)
}

func (b *wireBatch) readSNS(form url.Values) {
	b.Address = form.Get("TopicArn")
	for i := 1; ; i++ {
		p := fmt.Sprintf("PublishBatchRequestEntries.member.%d.", i)
		if form.Get(p+"Id") == "" {
			return
		}
		e := wireEntry{
			ID: form.Get(p + "Id"), Body: form.Get(p + "Message"),
			Attributes: map[string]string{},
		}
		if name := p + "MessageGroupId"; form.Has(name) {
			e.Group = aws.String(form.Get(name))
		}
		if name := p + "MessageDeduplicationId"; form.Has(name) {
			e.Dedup = aws.String(form.Get(name))
		}
		for j := 1; form.Get(fmt.Sprintf("%sMessageAttributes.entry.%d.Name", p, j)) != ""; j++ {
			q := fmt.Sprintf("%sMessageAttributes.entry.%d.", p, j)
			e.Attributes[form.Get(q+"Name")] = form.Get(q + "Value.StringValue")
		}
		b.Entries = append(b.Entries, e)
	}
}

func (b *wireBatch) readSQS(t testing.TB, body []byte) {
	var in struct {
		QueueUrl string
		Entries  []struct {
			Id, MessageBody                        string
			MessageGroupId, MessageDeduplicationId *string
			MessageAttributes                      map[string]struct{ StringValue string }
			MessageSystemAttributes                map[string]struct{ DataType, StringValue string }
		}
	}
	if err := json.Unmarshal(body, &in); err != nil {
		t.Errorf("request is not JSON: %v", err)
	}
	b.Address = in.QueueUrl
	for _, e := range in.Entries {
		entry := wireEntry{e.Id, e.MessageBody, e.MessageGroupId, e.MessageDeduplicationId, map[string]string{}, map[string]string{}}
		for name, a := range e.MessageAttributes {
			entry.Attributes[name] = a.StringValue
		}
		for name, a := range e.MessageSystemAttributes {
			entry.System[name] = a.DataType + " " + a.StringValue
		}
		b.Entries = append(b.Entries, entry)
	}
}

func write(rw http.ResponseWriter, b wireBatch, action string, reply wireReply) {
	switch {
	case reply.Drop:
		panic(http.ErrAbortHandler)
	case reply.Raw != "":
		rw.WriteHeader(max(reply.Status, 200))
		_, _ = io.WriteString(rw, reply.Raw)
	case reply.Error != nil && b.Service == publish.SNS:
		rw.WriteHeader(reply.Status)
		fmt.Fprintf(rw, "<ErrorResponse><Error><Type>Sender</Type><Code>%s</Code><Message>%s</Message></Error><RequestId>r</RequestId></ErrorResponse>",
			reply.Error.Code, escape(reply.Error.Message))
	case reply.Error != nil:
		rw.Header().Set("X-Amzn-Query-Error", reply.Error.Code+";Sender")
		rw.WriteHeader(reply.Status)
		writeJSON(rw, map[string]any{"__type": "com.amazonaws.sqs#Whatever", "message": reply.Error.Message})
	case b.Service == publish.SNS:
		fmt.Fprintf(rw, "<%[1]sResponse><%[1]sResult>%[2]s</%[1]sResult></%[1]sResponse>", action, snsResult(b, action, reply))
	default:
		writeJSON(rw, sqsResult(b, reply))
	}
}

func snsResult(b wireBatch, action string, reply wireReply) string {
	if action == "GetTopicAttributes" {
		return "<Attributes/>"
	}
	var good, bad strings.Builder
	for _, id := range accepted(b, reply) {
		fmt.Fprintf(&good, "<member><Id>%s</Id><MessageId>m</MessageId></member>", id)
	}
	for id, f := range reply.Fail {
		fmt.Fprintf(&bad, "<member><Id>%s</Id><Code>%s</Code><Message>%s</Message><SenderFault>%t</SenderFault></member>",
			id, f.Code, escape(f.Message), f.SenderFault)
	}
	return "<Successful>" + good.String() + "</Successful><Failed>" + bad.String() + "</Failed>"
}

func sqsResult(b wireBatch, reply wireReply) map[string]any {
	out := map[string]any{"Attributes": map[string]string{}, "QueueUrl": "https://queue.example/1/orders"}
	var good, bad []map[string]any
	for _, id := range accepted(b, reply) {
		good = append(good, map[string]any{"Id": id, "MessageId": "m", "MD5OfMessageBody": "not what it should be"})
	}
	for id, f := range reply.Fail {
		bad = append(bad, map[string]any{"Id": id, "Code": f.Code, "Message": f.Message, "SenderFault": f.SenderFault})
	}
	out["Successful"], out["Failed"] = good, bad
	return out
}

func accepted(b wireBatch, reply wireReply) []string {
	ids := append([]string(nil), reply.Extra...)
	for _, e := range b.Entries {
		if _, failed := reply.Fail[e.ID]; !failed && !reply.Omit[e.ID] {
			ids = append(ids, e.ID)
		}
	}
	return ids
}

func escape(s string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(s))
	return b.String()
}

func writeJSON(w io.Writer, v any) { _ = json.NewEncoder(w).Encode(v) }
