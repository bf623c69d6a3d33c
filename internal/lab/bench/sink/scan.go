package sink

import (
	"bytes"
	"errors"
	"strconv"
)

// maxEntries is AWS's limit for a batch request, of both services.
const maxEntries = 10

// entry is one message of a request. Its slices point into the request.
type entry struct {
	id    []byte
	body  []byte // as it was encoded for the request
	group []byte // MessageGroupId
}

// request is a request of one to ten messages.
type request struct {
	address []byte // the queue's URL or the topic's ARN
	entries []entry
}

var (
	errJSON = errors.New("the request is not JSON")
	errForm = errors.New("the request is not a form of SNS")
)

// parseBatch reads the body of a SendMessageBatch into r and uses its entries again. It reads
// no more of the JSON than it needs: the destination must cost little.
func (r *request) parseBatch(body []byte) error {
	r.address, r.entries = nil, r.entries[:0]
	s := scanner{text: body}
	s.object(func(name []byte) {
		switch string(name) {
		case "QueueUrl":
			r.address = s.str()
		case "Entries":
			s.array(func() { r.entries = append(r.entries, s.entry()) })
		default:
			s.skip()
		}
	})
	return s.err
}

// parseMessage reads the body of a SendMessage into r. Its entry has no id.
func (r *request) parseMessage(body []byte) error {
	r.address, r.entries = nil, append(r.entries[:0], entry{})
	s := scanner{text: body}
	s.object(func(name []byte) {
		if string(name) == "QueueUrl" {
			r.address = s.str()
			return
		}
		s.field(&r.entries[0], name)
	})
	return s.err
}

// parseForm reads the body of a PublishBatch into r.
func (r *request) parseForm(body []byte) error {
	const prefix = "PublishBatchRequestEntries.member."
	r.address, r.entries = nil, r.entries[:0]
	for len(body) > 0 {
		var pair []byte
		pair, body, _ = bytes.Cut(body, []byte("&"))
		name, value, _ := bytes.Cut(pair, []byte("="))
		if string(name) == "TopicArn" {
			r.address = value
			continue
		}
		rest, ok := bytes.CutPrefix(name, []byte(prefix))
		if !ok {
			continue
		}
		number, rest, _ := bytes.Cut(rest, []byte("."))
		n, err := strconv.Atoi(string(number))
		if err != nil || n < 1 || n > maxEntries {
			return errForm
		}
		for len(r.entries) < n {
			r.entries = append(r.entries, entry{})
		}
		switch e := &r.entries[n-1]; string(rest) {
		case "Id":
			e.id = value
		case "Message":
			e.body = value
		case "MessageGroupId":
			e.group = value
		}
	}
	return nil
}

// scanner walks through JSON. After an error it does nothing.
type scanner struct {
	text []byte
	at   int
	err  error
}

func (s *scanner) entry() (e entry) {
	s.object(func(name []byte) { s.field(&e, name) })
	return e
}

func (s *scanner) field(e *entry, name []byte) {
	switch string(name) {
	case "Id":
		e.id = s.str()
	case "MessageBody":
		e.body = s.str()
	case "MessageGroupId":
		e.group = s.str()
	default:
		s.skip()
	}
}

// next is the next byte that is no space, or 0 at the end.
func (s *scanner) next() byte {
	for s.at < len(s.text) {
		switch c := s.text[s.at]; c {
		case ' ', '\n', '\r', '\t':
			s.at++
		default:
			return c
		}
	}
	return 0
}

// take moves over c, which must come next.
func (s *scanner) take(c byte) bool {
	if s.err == nil && s.next() != c {
		s.err = errJSON
	}
	if s.err != nil {
		return false
	}
	s.at++
	return true
}

// object calls f for each member. f must move over the value.
func (s *scanner) object(f func(name []byte)) {
	s.list('{', '}', func() {
		if name := s.str(); s.take(':') {
			f(name)
		}
	})
}

// array calls f for each element. f must move over it.
func (s *scanner) array(f func()) { s.list('[', ']', f) }

func (s *scanner) list(open, end byte, f func()) {
	if !s.take(open) {
		return
	}
	for first := true; s.err == nil; first = false {
		if s.next() == end {
			s.at++
			return
		}
		if first || s.take(',') {
			f()
		}
	}
}

// str moves over a string and returns it with its escapes.
func (s *scanner) str() []byte {
	if !s.take('"') {
		return nil
	}
	for from := s.at; ; {
		n := bytes.IndexByte(s.text[s.at:], '"')
		if n < 0 {
			s.err = errJSON
			return nil
		}
		s.at += n + 1
		escapes := 0
		for i := s.at - 2; i >= from && s.text[i] == '\\'; i-- {
			escapes++
		}
		if escapes%2 == 0 {
			return s.text[from : s.at-1]
		}
	}
}

// skip moves over a value.
func (s *scanner) skip() {
	switch s.next() {
	case '"':
		s.str()
	case '{':
		s.object(func([]byte) { s.skip() })
	case '[':
		s.array(s.skip)
	default: // a number, true, false or null
		from := s.at
		for s.at < len(s.text) && !bytes.ContainsRune([]byte(",]} \n\r\t"), rune(s.text[s.at])) {
			s.at++
		}
		if s.at == from && s.err == nil {
			s.err = errJSON
		}
	}
}

// Marker begins the mark that a payload carries to be recognised: "bench-0000042-".
const Marker = "bench-"

// markWithin is where the mark must begin, in bytes of the encoded message.
const markWithin = 128

// number is the number of a marked message, or -1.
func number(body []byte) int {
	_, rest, found := bytes.Cut(body[:min(len(body), markWithin)], []byte(Marker))
	if !found {
		return -1
	}
	n := 0
	for i, c := range rest {
		switch {
		case c >= '0' && c <= '9' && i < 18:
			n = 10*n + int(c-'0')
		case c == '-' && i > 0:
			return n
		default:
			return -1
		}
	}
	return -1
}
