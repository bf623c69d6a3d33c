package outbox

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"time"
)

// ID is an event's identity, a UUID. Consumers receive it as the message
// attribute "event_id" on every delivery and replay, and recognise repeats by
// it. On FIFO destinations it is also the deduplication id. The zero ID means
// that none was chosen yet.
//
// pgx reads and writes it as a uuid, JSON as a string. Other packages' UUIDs of
// type [16]byte convert directly: outbox.ID(u).
type ID [16]byte

// NewID returns a new ID, a UUID of version 7. These begin with the time, so
// that an index on them, such as a consumer's table of processed events, grows
// only at its end. Do not rely on their order: clocks differ, and transactions
// commit in their own order.
func NewID() ID {
	var id ID
	_, _ = rand.Read(id[6:]) // never fails, by its contract since Go 1.24

	// RFC 9562, 5.7: 48 bits of Unix milliseconds, then version and variant.
	var ms [8]byte
	binary.BigEndian.PutUint64(ms[:], uint64(time.Now().UnixMilli()))
	copy(id[:6], ms[2:])
	id[6] = id[6]&0x0f | 0x70
	id[8] = id[8]&0x3f | 0x80
	return id
}

// ParseID reads the 36-character form that consumers receive, in either case.
// Other notations of UUIDs (braces, URN, no hyphens) are errors.
func ParseID(s string) (ID, error) {
	var id ID
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return ID{}, fmt.Errorf("parse event id %.40q: not in the form xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx", s)
	}
	digits := s[:8] + s[9:13] + s[14:18] + s[19:23] + s[24:]
	if _, err := hex.Decode(id[:], []byte(digits)); err != nil {
		return ID{}, fmt.Errorf("parse event id %q: %w", s, err)
	}
	return id, nil
}

// IsZero reports whether no ID was chosen yet.
func (id ID) IsZero() bool { return id == ID{} }

// String returns the canonical lower-case form with hyphens.
func (id ID) String() string {
	b, _ := id.MarshalText() // never fails
	return string(b)
}

// MarshalText makes an ID a string in JSON and in logs.
func (id ID) MarshalText() ([]byte, error) {
	b := make([]byte, 0, 36)
	for i, part := range [][]byte{id[:4], id[4:6], id[6:8], id[8:10], id[10:]} {
		if i > 0 {
			b = append(b, '-')
		}
		b = hex.AppendEncode(b, part)
	}
	return b, nil
}

// UnmarshalText accepts the same texts as [ParseID].
func (id *ID) UnmarshalText(text []byte) error {
	parsed, err := ParseID(string(text))
	if err != nil {
		return err
	}
	*id = parsed
	return nil
}
