package telemetry

import (
	"regexp"
	"sync"
)

const (
	// maxCodes is how many different error codes a worker shows. AWS has some eighty
	// that concern publishing.
	maxCodes = 200
	// otherCode stands for the rest, and for what does not look like a code.
	otherCode = "other"
)

var codePattern = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9._-]{0,63}$`)

// codes keeps the label "code" small, whatever calls itself AWS and answers.
type codes struct {
	mu   sync.Mutex
	seen map[string]bool
}

// label is how a code is shown.
func (c *codes) label(code string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.seen[code]:
		return code
	case len(c.seen) >= maxCodes, !codePattern.MatchString(code):
		return otherCode
	}
	if c.seen == nil {
		c.seen = make(map[string]bool)
	}
	c.seen[code] = true
	return code
}
