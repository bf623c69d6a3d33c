package load

import "strings"

// style is how a writer takes its key's lock. All writers of a key take the same.
type style int

const (
	rowLock       style = iota // UPDATE of the aggregate's row, then outbox.Write
	serializeKeys              // outbox.Writer{SerializeKeys: true} alone
	plainSQL                   // pg_advisory_xact_lock and INSERT, without the library; some events are backdated
	unordered                  // no key, no lock
)

// Keys are the names of the keys that every topic has events of, but for the empty
// one.
func Keys() (names []string) {
	for _, k := range keys {
		if k.name != "" {
			names = append(names, k.name)
		}
	}
	return names
}

// OldKeys are the names of those of the keys some of whose events are backdated.
func OldKeys() (names []string) {
	for _, k := range keys {
		if k.style == plainSQL {
			names = append(names, k.name)
		}
	}
	return names
}

type key struct {
	name  string
	style style
}

// keys are those of every topic. Some are such that AWS does not take them as
// they are.
var keys = []key{
	{"order-1", rowLock},
	{"order-2", rowLock},
	{"Bestellung Nr. 7 / Köln", rowLock},
	{"account-1", serializeKeys},
	{"account-2", serializeKeys},
	{strings.Repeat("long-", 40), serializeKeys},
	{"legacy-1", plainSQL},
	{"legacy-2", plainSQL},
	{"", unordered},
	{"hot", serializeKeys},
}

// hot is the key that a good part of all transactions writes to, and hotShare that part.
var hot = keys[len(keys)-1]

const hotShare = .15
