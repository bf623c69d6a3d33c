// Package errorcode knows the error codes with which destinations answer, and how the
// relay reacts to each.
//
// It is a table, because the services' own marks cannot be relied on: "SenderFault" and the
// status 4xx also come with throttling and with faults of a key. docs/errors.md is made from
// the table.
package errorcode

import (
	"strings"
	"unicode/utf8"

	"github.com/temporal-outbox/relay/internal/relay"
)

// Meaning is one meaning of error codes, and how the relay reacts to it.
type Meaning struct {
	// Codes are the spellings of this meaning, as they arrive. Lookup also finds the
	// variants that normal makes equal.
	Codes []string
	Class relay.Class
	// Throttling and Ambiguous are explained at relay.PublishError.
	Throttling, Ambiguous bool
	// Divides is true where one event may be the reason that a whole request was
	// rejected. The request is then divided until that event is found.
	Divides bool
	// Size is true where the request was too large, so that smaller ones are worth trying.
	Size  bool
	Cause Cause

	// From, Why and Source are for people. From names the services that use the code: no
	// code means different things to two of them. Why is short, because docs/errors.md has
	// it in a table; Notes are further paragraphs below that table.
	From, Why, Source string
	Notes             []string
}

// Cause is a reason for which a person can be told the remedy.
type Cause int

// The causes. The zero value means that no remedy is known.
const (
	_ Cause = iota
	CauseMissing
	CauseForbidden
	CauseCredentials
	CauseNetwork
	CauseKey
	CauseListing
)

// unknown is the meaning of a code that is in no row: a retry loses nothing.
var unknown = Meaning{Class: relay.ClassRetry}

// Known reports whether the code is in the table.
func (m *Meaning) Known() bool { return m != &unknown }

// byCode finds rows by their normal codes.
var byCode = func() map[string]*Meaning {
	m := make(map[string]*Meaning, 4*len(table))
	for i := range table {
		for _, code := range table[i].Codes {
			m[normal(code)] = &table[i]
		}
	}
	return m
}()

// Lookup returns the meaning of a code in any of its spellings. It never returns nil.
func Lookup(code string) *Meaning {
	code = normal(code)
	if m := byCode[code]; m != nil {
		return m
	}
	// A status without a code is written HTTP503.
	if len(code) == len("http503") && strings.HasPrefix(code, "http") {
		if m := byCode[code[:len("http5")]+"xx"]; m != nil {
			return m
		}
	}
	return &unknown
}

// New returns an error with one of the relay's own codes.
func New(code, message string) *relay.PublishError {
	pe := &relay.PublishError{Code: code, Message: message}
	Classify(pe)
	return pe
}

// Classify sets the fields of pe that follow from its code, and shortens the code.
func Classify(pe *relay.PublishError) {
	pe.Code = Shorten(bare(pe.Code))
	m := Lookup(pe.Code)
	pe.Class, pe.Throttled, pe.Ambiguous = m.Class, m.Throttling, m.Ambiguous
}

// sqsPrefix is what SQS puts before some of its codes, in the header that
// x-amzn-query-mode asks for and in the entries of a batch response.
const sqsPrefix = "AWS.SimpleQueueService."

// bare takes off a code the parts that say nothing: the namespace and the URL that surround
// it in JSON protocols, and SQS's prefix. The rest is the type of a failure in
// Temporal, and stands in dead letters.
func bare(code string) string {
	if _, after, ok := strings.Cut(code, "#"); ok {
		code = after
	}
	code, _, _ = strings.Cut(code, ":")
	return strings.TrimPrefix(strings.TrimSpace(code), sqsPrefix)
}

// normal is a code as the table is searched by: without the "Exception" that some
// services and some of their versions append, and in lower case, because upper and
// lower case count as equal, as they do for the SDK.
func normal(code string) string {
	return strings.ToLower(strings.TrimSuffix(bare(code), "Exception"))
}

// MaxText bounds an error's text in bytes. These texts are stored in workflow
// histories and tables, many times over.
const MaxText = 500

// Shorten cuts s to MaxText bytes, between two characters.
func Shorten(s string) string {
	if len(s) > MaxText {
		s = s[:MaxText-len("…")]
		for len(s) > 0 {
			if r, size := utf8.DecodeLastRuneInString(s); r != utf8.RuneError || size > 1 {
				break
			}
			s = s[:len(s)-1]
		}
		s += "…"
	}
	// PostgreSQL keeps no NUL in a text.
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}
