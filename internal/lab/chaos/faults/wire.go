package faults

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// request is a request of the relay, as far as the proxy understands it.
type request struct {
	sqs         bool
	destination string  // name of the topic or queue, empty where none is named
	entries     []entry // nil unless it is a batch

	body []byte
	form url.Values                 // SNS
	json map[string]json.RawMessage // SQS
	raw  []json.RawMessage          // SQS's entries
}

type entry struct{ id, event string }

// read parses a request. The proxy passes on the requests that it cannot parse.
func read(r *http.Request, body []byte) *request {
	q := &request{body: body}
	if action, ok := strings.CutPrefix(r.Header.Get("X-Amz-Target"), "AmazonSQS."); ok {
		q.sqs = true
		q.readSQS(action)
		return q
	}
	q.form, _ = url.ParseQuery(string(body))
	arn := q.form.Get("TopicArn")
	q.destination = arn[strings.LastIndexByte(arn, ':')+1:]
	if q.form.Get("Action") == "PublishBatch" {
		q.readSNS()
	}
	return q
}

const member = "PublishBatchRequestEntries.member."

func (q *request) readSNS() {
	for n := 1; q.form.Has(member + strconv.Itoa(n) + ".Id"); n++ {
		prefix := member + strconv.Itoa(n) + "."
		e := entry{id: q.form.Get(prefix + "Id")}
		for a := 1; q.form.Has(fmt.Sprintf("%sMessageAttributes.entry.%d.Name", prefix, a)); a++ {
			attribute := fmt.Sprintf("%sMessageAttributes.entry.%d.", prefix, a)
			if q.form.Get(attribute+"Name") == "event_id" {
				e.event = q.form.Get(attribute + "Value.StringValue")
			}
		}
		q.entries = append(q.entries, e)
	}
}

func (q *request) readSQS(action string) {
	if json.Unmarshal(q.body, &q.json) != nil {
		return
	}
	var name, queueURL string
	_ = json.Unmarshal(q.json["QueueName"], &name)
	_ = json.Unmarshal(q.json["QueueUrl"], &queueURL)
	q.destination = name
	if queueURL != "" {
		q.destination = queueURL[strings.LastIndexByte(queueURL, '/')+1:]
	}
	if action != "SendMessageBatch" || json.Unmarshal(q.json["Entries"], &q.raw) != nil {
		return
	}
	for _, raw := range q.raw {
		var e struct {
			ID                string `json:"Id"`
			MessageAttributes map[string]struct{ StringValue string }
		}
		_ = json.Unmarshal(raw, &e)
		q.entries = append(q.entries, entry{e.ID, e.MessageAttributes["event_id"].StringValue})
	}
}

// without is the request's body less some entries.
func (q *request) without(ids map[string]bool) []byte {
	if len(ids) == 0 {
		return q.body
	}
	if !q.sqs {
		form := url.Values{}
		n := 0
		for i, e := range q.entries {
			if ids[e.id] {
				continue
			}
			n++
			from, to := member+strconv.Itoa(i+1)+".", member+strconv.Itoa(n)+"."
			for name, values := range q.form {
				if rest, ok := strings.CutPrefix(name, from); ok {
					form[to+rest] = values
				}
			}
		}
		for name, values := range q.form {
			if !strings.HasPrefix(name, member) {
				form[name] = values
			}
		}
		return []byte(form.Encode())
	}
	var kept []json.RawMessage
	for i, e := range q.entries {
		if !ids[e.id] {
			kept = append(kept, q.raw[i])
		}
	}
	body := make(map[string]json.RawMessage, len(q.json))
	for name, value := range q.json {
		body[name] = value
	}
	body["Entries"], _ = json.Marshal(kept)
	text, _ := json.Marshal(body)
	return text
}

// emptyReply is that to a batch of which nothing is forwarded.
func (q *request) emptyReply() *reply {
	text, header := `{}`, http.Header{"Content-Type": {"application/x-amz-json-1.0"}}
	if !q.sqs {
		text = `<PublishBatchResponse><PublishBatchResult/></PublishBatchResponse>`
		header = http.Header{"Content-Type": {"text/xml"}}
	}
	return &reply{http.StatusOK, header, []byte(text)}
}

// fail answers with an error in the service's own words.
func (q *request) fail(w http.ResponseWriter, status int, code, message string) {
	if q.sqs {
		w.Header().Set("Content-Type", "application/x-amz-json-1.0")
		w.Header().Set("X-Amzn-Query-Error", code+";Sender")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(map[string]string{"__type": "com.amazonaws.sqs#" + code, "message": message})
		return
	}
	w.Header().Set("Content-Type", "text/xml")
	w.WriteHeader(status)
	_, _ = fmt.Fprintf(w, "<ErrorResponse><Error><Type>Sender</Type><Code>%s</Code><Message>%s</Message></Error><RequestId>harness</RequestId></ErrorResponse>", code, message)
}
