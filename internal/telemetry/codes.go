package telemetry

import (
	"regexp"
	"sync"
)

const (
	// maxCodes is the maximum number of different error codes that a worker shows. AWS has
	// about eighty that concern publishing.
	maxCodes = 200
	// otherCode stands for further codes, and for texts that do not look like a code.
	otherCode = "other"
)

var codePattern = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9._-]{0,63}$`)

// codes bounds the values of the label "code", even if another server than AWS answers.
type codes struct {
	mu   sync.Mutex
	seen map[string]bool
}

// label returns the value of the label for a code.
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
