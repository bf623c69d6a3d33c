package publish

import (
	"strings"

	"github.com/temporal-outbox/relay/internal/relay"
)

// row says what is done about some error codes that mean the same, and why. The
// table of rows is in classes.go, and docs/errors.md is made from it.
type row struct {
	// codes are the spellings that this meaning has, as they arrive. See normal
	// for what need not be listed.
	codes []string
	// from says who speaks of it so. For people: no code means different things
	// to the two services.
	from  string
	class relay.Class
	// throttling, doubtful: see relay.PublishError.
	throttling, doubtful bool
	// splits is true where one event may be the reason that a whole request was
	// refused. Such a request is divided until the event is found.
	splits bool
	// size is true where the request was too large, so that smaller ones are worth
	// trying from now on.
	size   bool
	cause  cause
	why    string
	source string
}

// cause is what a remedy can be given for.
type cause int

const (
	_ cause = iota
	causeMissing
	causeForbidden
	causeCredentials
	causeNetwork
	causeKey
	causeListing
)

// unknown is what is done about a code that no row has: a retry loses nothing.
var unknown = row{class: relay.ClassRetry}

// byCode finds rows by their normal codes.
var byCode = func() map[string]*row {
	m := make(map[string]*row, 4*len(classes))
	for i := range classes {
		for _, code := range classes[i].codes {
			m[normal(code)] = &classes[i]
		}
	}
	return m
}()

// sqsPrefix is what SQS puts before some of its codes, in the header that
// x-amzn-query-mode asks for and in the entries of a batch response.
const sqsPrefix = "AWS.SimpleQueueService."

// bare takes off a code what says nothing: the namespace and the URL that surround
// it in JSON protocols, and SQS's prefix. What is left is the type of a failure in
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

// lookUpCode returns the row of a code.
func lookUpCode(code string) *row {
	code = normal(code)
	if r := byCode[code]; r != nil {
		return r
	}
	// publishError makes HTTP503 of a status without a code.
	if len(code) == len("http503") && strings.HasPrefix(code, "http") {
		if r := byCode[code[:len("http5")]+"xx"]; r != nil {
			return r
		}
	}
	return &unknown
}

// classify fills in what the table says about pe's code, and makes that short.
func classify(pe *relay.PublishError) {
	pe.Code = shorten(bare(pe.Code))
	r := lookUpCode(pe.Code)
	pe.Class, pe.Throttled, pe.Doubtful = r.class, r.throttling, r.doubtful
}

// refusal makes an error with a code of the relay's own.
func refusal(code, message string) *relay.PublishError {
	pe := &relay.PublishError{Code: code, Message: message}
	classify(pe)
	return pe
}
