package publish

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/publish/awsapi"
	"github.com/temporal-outbox/relay/internal/publish/destination"
	"github.com/temporal-outbox/relay/internal/publish/errorcode"
	"github.com/temporal-outbox/relay/internal/relay"
)

// canned answers every request with the same response.
type canned struct {
	status int
	header string // x-amzn-query-error
	body   []byte
}

func (c *canned) Do(req *http.Request) (*http.Response, error) {
	_, _ = io.Copy(io.Discard, req.Body)
	h := http.Header{}
	if c.header != "" {
		h.Set("X-Amzn-Query-Error", c.header)
	}
	return &http.Response{StatusCode: c.status, Header: h, Body: io.NopCloser(bytes.NewReader(c.body)), Request: req}, nil
}

// fuzzed has a request to each service whose response is canned.
type fuzzed struct {
	response canned
	senders  map[Service]destination.Sender
}

func newFuzzed(t testing.TB) *fuzzed {
	f := &fuzzed{senders: map[Service]destination.Sender{}}
	p, err := New(Config{Attempts: 1, AWS: aws.Config{
		Region: "eu-west-1", HTTPClient: &f.response, Credentials: credentials.NewStaticCredentialsProvider("id", "secret", ""),
	}})
	require.NoError(t, err)
	for _, s := range []Service{SNS, SQS} {
		f.senders[s] = p.drivers[s].Open(Route{Service: s, Address: "https://sqs.eu-west-1.amazonaws.com/1/q", Region: "eu-west-1"}).NewSender()
	}
	return f
}

// send sends n events and checks what holds of every answer. It returns why each event was not
// accepted, nil for those that were.
func (f *fuzzed) send(t *testing.T, s Service, n int) []*relay.PublishError {
	events := make([]*relay.Event, n)
	for i, ev := range numbered(1, n, nil) {
		events[i] = &ev
	}
	answer := f.senders[s].Send(t.Context(), events)
	failed := make([]*relay.PublishError, n)
	for i := range n {
		_, failed[i] = answer.Of(i)
		switch e := failed[i]; {
		case e == nil:
		case e.Code == "" || e.Class == "":
			t.Fatalf("entry %d: %#v", i, e)
		case len(e.Message) > errorcode.MaxText:
			t.Fatalf("entry %d: a text of %d bytes", i, len(e.Message))
		case e.Throttled && e.Class != relay.ClassRetry, e.Ambiguous && e.Class != relay.ClassPoison:
			t.Fatalf("entry %d: %#v", i, e)
		case e.Whole != (failed[0] != nil && failed[0].Whole):
			t.Fatalf("entry %d: a request fails as a whole or not", i)
		}
	}
	return failed
}

// FuzzResponse lets a service answer anything at all.
func FuzzResponse(f *testing.F) {
	f.Add(true, 200, "", `<PublishBatchResponse><PublishBatchResult><Successful><member><Id>0</Id></member></Successful><Failed><member><Id>1</Id><Code>InternalError</Code></member></Failed></PublishBatchResult></PublishBatchResponse>`)
	f.Add(true, 400, "", `<ErrorResponse><Error><Type>Sender</Type><Code>InvalidParameter</Code><Message>no</Message></Error></ErrorResponse>`)
	f.Add(true, 503, "", `<html><br></html>`)
	f.Add(false, 200, "", `{"Successful":[{"Id":"0","MessageId":"m"},{"Id":"0"},{"Id":null}],"Failed":[{"Id":"1","Code":"InternalError","SenderFault":true},{"Id":"0"}]}`)
	f.Add(false, 400, "AWS.SimpleQueueService.NonExistentQueue;Sender", `{"__type":"com.amazonaws.sqs#QueueDoesNotExist","message":"no"}`)
	f.Add(false, 413, "", ``)
	f.Add(false, 200, "", `[{"Successful":{}}`)
	fz := newFuzzed(f)
	f.Fuzz(func(t *testing.T, topic bool, status int, header, body string) {
		if status < 200 || status > 599 || strings.ContainsAny(header, "\r\n") {
			t.Skip("net/http lets none through")
		}
		fz.response = canned{status: status, header: header, body: []byte(body)}
		service, mentioned := SQS, stringsOfJSON(body)
		if topic {
			service, mentioned = SNS, stringsOfXML(body)
		}
		a := fz.send(t, service, 7)
		for i := range 7 {
			if a[i] == nil && (status > 299 || !mentioned[awsapi.EntryIDs[i]]) {
				t.Fatalf("entry %d counts as accepted by status %d, %q", i, status, body)
			}
		}
	})
}

// stringsOfXML and stringsOfJSON find, without any notion of structure, all that
// may be an id in as much of a response as can be read.
func stringsOfXML(body string) map[string]bool {
	found := make(map[string]bool)
	d := xml.NewDecoder(strings.NewReader(body))
	text := ""
	for {
		t, err := d.Token()
		if err != nil {
			return found
		}
		switch t := t.(type) {
		case xml.StartElement:
			text = ""
		case xml.CharData:
			text += string(t)
			found[text], found[string(t)], found[strings.TrimSpace(text)] = true, true, true
		}
	}
}

func stringsOfJSON(body string) map[string]bool {
	found := make(map[string]bool)
	d := json.NewDecoder(strings.NewReader(body))
	for {
		t, err := d.Token()
		if err != nil {
			return found
		}
		if s, ok := t.(string); ok {
			found[s] = true
		}
	}
}

// FuzzResponseLists lets a service name any entries, in any order, on either
// list: each byte of the lists is an id.
func FuzzResponseLists(f *testing.F) {
	f.Add(true, "0123", "456")
	f.Add(false, "0012", "0x")
	f.Add(false, "", "")
	f.Add(true, "89:/", "7")
	fz := newFuzzed(f)
	f.Fuzz(func(t *testing.T, topic bool, accepted, failed string) {
		for _, c := range []byte(accepted + failed) {
			if c < '!' || c > '~' || strings.IndexByte(`<>&"\`, c) >= 0 {
				t.Skip("not an id")
			}
		}
		service := SQS
		fz.response = canned{status: 200, body: []byte(`{"Successful":[` + list(accepted, `{"Id":"%c","MessageId":"m"}`, ",") +
			`],"Failed":[` + list(failed, `{"Id":"%c","Code":"InternalError","SenderFault":false}`, ",") + `]}`)}
		if topic {
			service = SNS
			fz.response.body = []byte(`<PublishBatchResponse><PublishBatchResult><Failed>` +
				list(failed, `<member><Id>%c</Id><Code>InternalError</Code></member>`, "") + `</Failed><Successful>` +
				list(accepted, `<member><Id>%c</Id></member>`, "") + `</Successful></PublishBatchResult></PublishBatchResponse>`)
		}
		a := fz.send(t, service, 7)
		for i := range 7 {
			want := relay.CodeUnanswered
			switch {
			case strings.Contains(failed, awsapi.EntryIDs[i]):
				want = "InternalError"
			case strings.Contains(accepted, awsapi.EntryIDs[i]):
				want = ""
			}
			got := ""
			if a[i] != nil {
				got = a[i].Code
			}
			if got != want {
				t.Fatalf("entry %d: %q, want %q, of %s", i, got, want, fz.response.body)
			}
		}
	})
}

func list(ids, format, separator string) string {
	items := make([]string, len(ids))
	for i := range len(ids) {
		items[i] = fmt.Sprintf(format, ids[i])
	}
	return strings.Join(items, separator)
}
