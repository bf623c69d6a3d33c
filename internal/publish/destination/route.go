package destination

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Service names a kind of destination.
type Service string

// The kinds of destinations.
const (
	SNS Service = "SNS"
	SQS Service = "SQS"
)

// nouns are the words for a destination of each kind in texts for people.
var nouns = map[Service]string{SNS: "SNS topic", SQS: "SQS queue"}

// Route is a topic's destination as configured, and what a look-up has added.
type Route struct {
	Topic   string
	Service Service
	// Name is the destination as configured.
	Name string
	// Address is what the service wants to be called with: a topic ARN or a queue URL.
	// Empty until it has been looked up.
	Address string
	// Region is the one that Address lies in, or else the configured one.
	Region string
	// Ordered is true for FIFO destinations.
	Ordered bool
	// Batched is true if a request to a FIFO destination may have several events of a key.
	Batched bool
	// Fill is how long an event waits for others that share its request.
	Fill time.Duration
	// Fair is true where a standard destination gets the key as group id.
	Fair bool
	// Limit is the largest message, and the largest sum of messages in a
	// request, that the destination accepts: bytes of body and attributes.
	Limit int
	// Guessed is true while Limit is only the service's default, because the
	// destination's own is not known.
	Guessed bool
}

// String names the route the way errors and logs do: `SNS topic "orders-events"`.
func (r Route) String() string { return fmt.Sprintf("%s %q", nouns[r.Service], r.Name) }

// Label is String for texts where quotation marks would be escaped again. It holds no
// secret.
func (r Route) Label() string {
	return strings.Replace(r.String(), strconv.Quote(r.Name), WithoutSecrets(r.Name), 1)
}

// WithoutSecrets returns a destination's name or address as everybody may read it: a URL
// without its user, query and fragment.
func WithoutSecrets(address string) string {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" {
		return address
	}
	u.User, u.RawQuery, u.Fragment = nil, "", ""
	return u.String()
}
