// Package sink is a destination for measurements: a server that speaks as much of SQS's and
// SNS's protocols as the relay and the AWS SDK need. It keeps no message. It answers at once or
// after a delay, notes when it acknowledged each event, and takes little processor time, so that
// it limits no measurement. It runs as a process of its own, so that its processor time is
// known.
//
// Any name is a queue or a topic. A name that ends in ".fifo" is ordered, and the sink checks
// the order.
package sink

import (
	"bytes"
	"crypto/md5" //nolint:gosec // SQS's protocol has it
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	account     = "000000000000"
	region      = "us-east-1"
	messageSize = "1048576"
)

// ARN is the ARN of an SNS topic of the sink.
func ARN(name string) string { return "arn:aws:sns:" + region + ":" + account + ":" + name }

// queue is the behaviour of one queue or topic. The zero value accepts at once.
type queue struct {
	name    string
	ordered bool
	delay   atomic.Int64 // nanoseconds
	refuse  atomic.Bool
}

// Server is the sink as an HTTP handler. Use New.
type Server struct {
	// Checksums makes answers carry the MD5 of each message, as SQS does. It costs
	// processor time, and the relay does not check it.
	Checksums bool

	record atomic.Pointer[record]
	ids    atomic.Int64 // of messages
	work   sync.Pool    // of *exchange

	mu       sync.RWMutex
	queues   map[string]*queue
	standard Behaviour // of queues to come
}

// New returns a sink that accepts everything at once.
func New() *Server {
	s := &Server{queues: map[string]*queue{}}
	s.work.New = func() any { return &exchange{request: request{entries: make([]entry, 0, maxEntries)}} }
	s.record.Store(newRecord(0))
	return s
}

// exchange is the memory of a request, to be used again.
type exchange struct {
	request
	body, answer []byte
}

var (
	contentJSON = []string{"application/x-amz-json-1.0"}
	contentXML  = []string{"text/xml"}
)

// ServeHTTP answers a request of SQS or SNS, or one of control.go.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/" && s.control(w, r) {
		return
	}
	x := s.work.Get().(*exchange) //nolint:errcheck // the pool has nothing else
	defer s.work.Put(x)
	if err := x.read(r); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	target := r.Header["X-Amz-Target"]
	if len(target) == 0 {
		s.serveSNS(w, r, x)
		return
	}
	s.serveSQS(w, r, x, strings.TrimPrefix(target[0], "AmazonSQS."))
}

// maxBody is more than AWS accepts.
const maxBody = 8 << 20

func (x *exchange) read(r *http.Request) (err error) {
	if n := r.ContentLength; n >= 0 && n <= maxBody {
		if int64(cap(x.body)) < n {
			x.body = make([]byte, n)
		}
		x.body = x.body[:n]
		_, err = io.ReadFull(r.Body, x.body)
		return err
	}
	x.body, err = io.ReadAll(io.LimitReader(r.Body, maxBody))
	return err
}

func (s *Server) serveSQS(w http.ResponseWriter, r *http.Request, x *exchange, action string) {
	switch action {
	case "SendMessageBatch":
		if err := x.parseBatch(x.body); err != nil {
			refuseSQS(w, http.StatusBadRequest, "MalformedInput", err.Error())
			return
		}
		s.accept(w, r, x, answerBatch)
	case "SendMessage":
		if err := x.parseMessage(x.body); err != nil {
			refuseSQS(w, http.StatusBadRequest, "MalformedInput", err.Error())
			return
		}
		s.accept(w, r, x, answerMessage)
	case "GetQueueUrl", "CreateQueue":
		var in struct{ QueueName string }
		_ = json.Unmarshal(x.body, &in)
		writeJSON(w, map[string]string{"QueueUrl": "http://" + r.Host + "/" + account + "/" + in.QueueName})
	case "GetQueueAttributes":
		var in struct{ QueueURL string }
		_ = json.Unmarshal(x.body, &in)
		name := string(nameOf([]byte(in.QueueURL)))
		attributes := map[string]string{"MaximumMessageSize": messageSize, "QueueArn": "arn:aws:sqs:" + region + ":" + account + ":" + name}
		if isFIFO(name) {
			attributes["FifoQueue"] = "true"
		}
		writeJSON(w, map[string]any{"Attributes": attributes})
	case "DeleteQueue", "PurgeQueue":
		writeJSON(w, struct{}{})
	default:
		refuseSQS(w, http.StatusBadRequest, "UnsupportedOperation", "the sink has no "+action)
	}
}

// accept delays and acknowledges the messages of a request.
func (s *Server) accept(w http.ResponseWriter, r *http.Request, x *exchange, write answer) {
	rec, q := s.record.Load(), s.queue(nameOf(x.address))
	rec.begin()
	defer rec.end()
	isSNS := len(r.Header["X-Amz-Target"]) == 0
	switch {
	case len(x.entries) == 0 || len(x.entries) > maxEntries:
		rec.refused.Add(1)
		refuse(w, isSNS, http.StatusBadRequest, "EmptyBatchRequest", "a batch has one to ten entries")
		return
	case q.refuse.Load():
		rec.refused.Add(1)
		refuse(w, isSNS, http.StatusServiceUnavailable, "ServiceUnavailable", "the destination is away")
		return
	}
	if d := time.Duration(q.delay.Load()); d > 0 {
		time.Sleep(d)
	}
	x.answer = write(s, x.answer[:0], x.entries)
	rec.accept(q.name, x.entries, rec.stamp(client(r)), q.ordered)
	header := w.Header()
	if header["Content-Type"] = contentJSON; isSNS {
		header["Content-Type"] = contentXML
	}
	_, _ = w.Write(x.answer)
}

// client is the N of app/wN in the User-Agent, which a worker has from AWS_SDK_UA_APP_ID=wN.
func client(r *http.Request) int {
	agent := r.Header["User-Agent"]
	if len(agent) == 0 {
		return NoClient
	}
	_, rest, found := strings.Cut(agent[0], "app/w")
	if !found {
		return NoClient
	}
	digits := len(rest) - len(strings.TrimLeft(rest, "0123456789"))
	n, err := strconv.Atoi(rest[:digits])
	if err != nil || n >= NoClient {
		return NoClient
	}
	return n
}

// messageID appends a new id, in the form that AWS uses.
func (s *Server) messageID(to []byte) []byte {
	var hexed [12]byte
	n := s.ids.Add(1)
	for i := len(hexed) - 1; i >= 0; i-- {
		hexed[i] = "0123456789abcdef"[n&15]
		n >>= 4
	}
	return append(append(to, "00000000-0000-4000-8000-"...), hexed[:]...)
}

// checksum appends the member MD5OfMessageBody of an entry, if checksums are wanted.
func (s *Server) checksum(to []byte, e *entry) []byte {
	if !s.Checksums {
		return to
	}
	var body string
	_ = json.Unmarshal(append(append([]byte{'"'}, e.body...), '"'), &body)
	sum := md5.Sum([]byte(body)) //nolint:gosec // as above
	return append(append(to, `","MD5OfMessageBody":"`...), hex.EncodeToString(sum[:])...)
}

// answer appends the answer to the accepted messages of a request.
type answer func(s *Server, to []byte, entries []entry) []byte

func answerBatch(s *Server, to []byte, entries []entry) []byte {
	to = append(to, `{"Failed":[],"Successful":[`...)
	for i := range entries {
		if i > 0 {
			to = append(to, ',')
		}
		to = append(append(append(to, `{"Id":"`...), entries[i].id...), `","MessageId":"`...)
		to = append(s.checksum(s.messageID(to), &entries[i]), `"}`...)
	}
	return append(to, `]}`...)
}

func answerMessage(s *Server, to []byte, entries []entry) []byte {
	to = s.messageID(append(to, `{"MessageId":"`...))
	return append(s.checksum(to, &entries[0]), `"}`...)
}

func answerPublish(s *Server, to []byte, entries []entry) []byte {
	to = append(to, `<PublishBatchResponse xmlns="http://sns.amazonaws.com/doc/2010-03-31/"><PublishBatchResult><Failed/><Successful>`...)
	for i := range entries {
		to = append(append(append(to, `<member><Id>`...), entries[i].id...), `</Id><MessageId>`...)
		to = append(s.messageID(to), `</MessageId></member>`...)
	}
	to = s.messageID(append(to, `</Successful></PublishBatchResult><ResponseMetadata><RequestId>`...))
	return append(to, `</RequestId></ResponseMetadata></PublishBatchResponse>`...)
}

func (s *Server) serveSNS(w http.ResponseWriter, r *http.Request, x *exchange) {
	if bytes.Contains(x.body[:min(len(x.body), 64)], []byte("Action=PublishBatch&")) {
		if err := x.parseForm(x.body); err != nil {
			refuse(w, true, http.StatusBadRequest, "InvalidParameter", err.Error())
			return
		}
		s.accept(w, r, x, answerPublish)
		return
	}
	form, _ := url.ParseQuery(string(x.body))
	w.Header()["Content-Type"] = contentXML
	switch action := form.Get("Action"); action {
	case "ListTopics":
		s.mu.RLock()
		defer s.mu.RUnlock()
		var members strings.Builder
		for name := range s.queues {
			members.WriteString("<member><TopicArn>" + ARN(name) + "</TopicArn></member>")
		}
		if len(s.queues) == 0 { // the first page tells whose topics they are
			members.WriteString("<member><TopicArn>" + ARN("sink") + "</TopicArn></member>")
		}
		_, _ = fmt.Fprintf(w, `<ListTopicsResponse xmlns="http://sns.amazonaws.com/doc/2010-03-31/"><ListTopicsResult><Topics>%s</Topics></ListTopicsResult></ListTopicsResponse>`, members.String())
	case "GetTopicAttributes":
		arn := form.Get("TopicArn")
		_, _ = fmt.Fprintf(w, `<GetTopicAttributesResponse xmlns="http://sns.amazonaws.com/doc/2010-03-31/"><GetTopicAttributesResult><Attributes>`+
			`<entry><key>TopicArn</key><value>%s</value></entry><entry><key>MaximumMessageSize</key><value>%s</value></entry>`+
			`<entry><key>FifoTopic</key><value>%t</value></entry></Attributes></GetTopicAttributesResult></GetTopicAttributesResponse>`, arn, messageSize, isFIFO(arn))
	default:
		refuse(w, true, http.StatusBadRequest, "InvalidAction", "the sink has no "+action)
	}
}

// nameOf is the last part of a queue's URL or a topic's ARN, which may be encoded for a form.
func nameOf(address []byte) []byte {
	if i := bytes.LastIndexByte(address, '/'); i >= 0 {
		return address[i+1:]
	}
	if i := bytes.LastIndex(address, []byte("%3A")); i >= 0 {
		return address[i+3:]
	}
	return address[bytes.LastIndexByte(address, ':')+1:]
}

func isFIFO(name string) bool { return strings.HasSuffix(name, ".fifo") }

// queue finds a queue by its name. Any name is one.
func (s *Server) queue(name []byte) *queue {
	s.mu.RLock()
	q := s.queues[string(name)]
	s.mu.RUnlock()
	if q != nil {
		return q
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.locked(string(name))
}

func (s *Server) locked(name string) *queue {
	q := s.queues[name]
	if q == nil {
		q = &queue{name: name, ordered: isFIFO(name)}
		q.delay.Store(int64(s.standard.Delay))
		q.refuse.Store(s.standard.Refuse)
		s.queues[name] = q
	}
	return q
}

func writeJSON(w http.ResponseWriter, answer any) {
	w.Header()["Content-Type"] = contentJSON
	_ = json.NewEncoder(w).Encode(answer)
}

func refuse(w http.ResponseWriter, isSNS bool, status int, code, text string) {
	if !isSNS {
		refuseSQS(w, status, code, text)
		return
	}
	w.Header()["Content-Type"] = contentXML
	w.WriteHeader(status)
	_, _ = fmt.Fprintf(w, `<ErrorResponse xmlns="http://sns.amazonaws.com/doc/2010-03-31/"><Error><Type>Receiver</Type><Code>%s</Code><Message>%s</Message></Error><RequestId>0</RequestId></ErrorResponse>`, code, text)
}

func refuseSQS(w http.ResponseWriter, status int, code, text string) {
	w.Header()["Content-Type"] = contentJSON
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"__type": "com.amazonaws.sqs#" + code, "message": text})
}
