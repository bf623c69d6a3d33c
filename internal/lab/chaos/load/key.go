package load

import (
	"fmt"
	"slices"
	"strings"
)

// style is how a writer takes its key's lock. All writers of a key take the same.
type style int

const (
	rowLock       style = iota // UPDATE of the aggregate's row, then outbox.Write
	serializeKeys              // outbox.Writer{SerializeKeys: true} alone
	plainSQL                   // pg_advisory_xact_lock and INSERT, without the library; some events are backdated
	unordered                  // no key, no lock
)

// Keys are the names of the keys that every topic has events of at any rate, without the
// empty key.
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

// hot is the key that a good part of all transactions writes to.
var hot = keys[len(keys)-1]

// A key's events are delivered one after another, so a rate needs keys: those above serve
// keysFor events a second. Others have a number after their names.
const keysFor = 60

// keysAt are the keys for a rate.
func keysAt(rate int) []key {
	all := slices.Clone(keys)
	for n := 2; n <= rate/keysFor; n++ {
		for _, k := range keys {
			switch {
			case k == hot: // there is one
			case k.style == unordered:
				all = append(all, k)
			default:
				all = append(all, key{fmt.Sprintf("%s #%d", k.name, n), k.style})
			}
		}
	}
	return all
}

// hotShare is the part of the transactions that write to the hot key, of all topics
// together: at most 40 events a second.
func hotShare(rate int) float64 { return min(.15, 40/float64(rate)) }
