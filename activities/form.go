package activities

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/temporal-outbox/relay/internal/printable"
	"github.com/temporal-outbox/relay/internal/relay"
)

// defaultRate is how many events a second a form moves that says nothing else, as the
// starter does.
const defaultRate = 1000

// form is an operation that a person asks for: the JSON of Temporal's Start Workflow form. It is
// strict. A field that is not known, empty, or not for its kind is a mistake: without the
// filter that it was meant to be, more would be moved than was asked for.
type form struct {
	Kind       string   `json:"kind"`
	Topic      string   `json:"topic"`
	Who        string   `json:"who"`
	Reason     string   `json:"reason"`
	EventIDs   []string `json:"eventIds"`
	Key        string   `json:"key"`
	Type       string   `json:"type"`
	Code       string   `json:"code"`
	Since      string   `json:"since"`
	Until      string   `json:"until"`
	All        bool     `json:"all"`
	OutOfOrder bool     `json:"outOfOrder"`
	Rate       float64  `json:"rate"`
	DryRun     bool     `json:"dryRun"`
}

// formError says what is wrong with a form.
type formError struct{ text string }

func (e *formError) Error() string { return e.text }

func wrong(format string, args ...any) error { return &formError{fmt.Sprintf(format, args...)} }

var (
	// always are the fields that every kind has.
	always = []string{"kind", "topic", "who", "reason"}
	// filters are those that select.
	filters = []string{"eventIds", "key", "type", "code", "since", "until"}
	// fieldsOf are the kinds of a form and their fields.
	fieldsOf = map[string][]string{
		relay.Redrive: slices.Concat(always, filters, []string{"all", "outOfOrder", "rate", "dryRun"}),
		relay.Replay:  slices.Concat(always, []string{"eventIds", "key", "type", "since", "until", "rate", "dryRun"}),
		relay.Pause:   always,
		relay.Resume:  always,
	}
)

// LooksLikeForm reports whether the JSON of an Operation's input has a field that only a form
// has. An input that names an operation on record has none of them.
func LooksLikeForm(typed []byte) bool {
	var given map[string]json.RawMessage
	_ = json.Unmarshal(typed, &given) // what is no object has no field
	both := []string{"kind", "topic"}
	for name := range given {
		isSame := func(field string) bool { return strings.EqualFold(field, name) }
		if slices.ContainsFunc(fieldsOf[relay.Redrive], isSame) && !slices.ContainsFunc(both, isSame) {
			return true
		}
	}
	return false
}

// readForm reads the typed text, and checks all of it that needs no database.
func readForm(typed json.RawMessage) (f form, err error) {
	var given map[string]json.RawMessage
	if err := json.Unmarshal(typed, &given); err != nil || given == nil {
		return f, wrong(`give one JSON object, such as {"kind": "redrive", "topic": "orders", "all": true, "who": "ann", "reason": "policy repaired"}`)
	}
	if name, is := repeated(typed); is {
		return f, wrong("%s comes twice: give it once", quoted(name))
	}
	names := fieldsOf[relay.Redrive] // which has all
	for _, name := range sorted(given) {
		if !slices.Contains(names, name) {
			return f, wrong("field %s is not known: the fields are %s", quoted(name), strings.Join(names, ", "))
		}
		if empty(given[name]) {
			return f, wrong("%s is empty: leave it out if it does not matter", name)
		}
		if !storable(given[name]) {
			return f, wrong("%s is %s: the database takes only UTF-8 text without NUL", name, quoted(string(given[name])))
		}
		// Into the whole form, so that each field has its own type, and its own error.
		one, err := json.Marshal(map[string]json.RawMessage{name: given[name]})
		if err == nil {
			err = json.Unmarshal(one, &f)
		}
		if err != nil {
			return f, wrong("%s is %s: give %s", name, quoted(string(given[name])), typeOf(name))
		}
	}
	return f, f.check(given)
}

// check looks at fields that have the right types.
func (f *form) check(given map[string]json.RawMessage) error {
	if f.Kind == relay.Discard {
		return wrong(`a discard cannot be undone, and a form cannot ask you to confirm it: use "starter dead discard"`)
	}
	names, known := fieldsOf[f.Kind]
	if !known {
		return wrong("kind is %s: give redrive, replay, pause or resume", quoted(f.Kind))
	}
	for _, name := range sorted(given) {
		if !slices.Contains(names, name) {
			return wrong("%s is not for a %s: its fields are %s", name, f.Kind, strings.Join(names, ", "))
		}
	}
	switch {
	case f.Topic == "":
		return wrong("topic is missing")
	case f.Who == "" && !f.DryRun:
		return wrong("who is missing: say who you are, for the record")
	case f.Reason == "" && !f.DryRun && f.Kind != relay.Resume:
		return wrong("reason is missing: say why, for the record")
	}
	if f.Kind == relay.Pause || f.Kind == relay.Resume {
		return nil
	}
	return f.checkSelection(given)
}

func (f *form) checkSelection(given map[string]json.RawMessage) error {
	selects := slices.ContainsFunc(filters, func(name string) bool { _, is := given[name]; return is })
	switch {
	case f.Kind == relay.Replay && (f.Since == "" || f.Until == ""):
		return wrong(`a replay needs since and until: give times such as 2026-01-31T15:04:05Z, or how long ago, such as 2h`)
	case selects && f.All:
		return wrong("all is true, and the form also has filters: leave one of them out")
	case !selects && !f.All:
		return wrong(`select the dead letters to %s: give a filter, such as code, key or since, or give "all": true`, f.Kind)
	case f.Rate < 0:
		return wrong("rate is %g: give events a second, or 0 for no limit", f.Rate)
	}
	if _, is := given["rate"]; !is {
		f.Rate = defaultRate
	}
	var err error
	if f.EventIDs, err = relay.EventIDs(f.EventIDs); err != nil {
		return wrong("eventIds: %v", err)
	}
	if _, _, err := f.selection().Range(time.Now()); err != nil {
		return wrong("%v", err)
	}
	return nil
}

// selection is what the form selects, as the same command of the starter would.
func (f *form) selection() relay.Selection {
	return relay.Selection{EventIDs: f.EventIDs, Key: f.Key, Type: f.Type, Code: f.Code, Since: f.Since, Until: f.Until}
}

// empty is true of a value that would select nothing in particular, or everything.
func empty(v json.RawMessage) bool {
	switch string(bytes.TrimSpace(v)) {
	case "null", `""`, "[]", "{}":
		return true
	}
	return false
}

// repeated returns the first name that comes twice in an object. Of the two values, the one that
// was meant may be the one that is not read.
func repeated(typed json.RawMessage) (name string, is bool) {
	d := json.NewDecoder(bytes.NewReader(typed))
	if _, err := d.Token(); err != nil { // the brace
		return "", false
	}
	seen := map[string]bool{}
	for d.More() {
		t, err := d.Token()
		var value json.RawMessage
		if err == nil {
			err = d.Decode(&value)
		}
		name, isName := t.(string)
		if err != nil || !isName {
			return "", false
		}
		if seen[name] {
			return name, true
		}
		seen[name] = true
	}
	return "", false
}

// storable reports whether PostgreSQL can take the texts of a value. It never could later, so
// that another attempt is of no use.
func storable(v json.RawMessage) bool {
	var text string
	var texts []string
	if json.Unmarshal(v, &text) == nil {
		texts = []string{text}
	} else {
		_ = json.Unmarshal(v, &texts) // any other value has no text, or is refused
	}
	return utf8.Valid(v) && !slices.ContainsFunc(texts, func(t string) bool { return strings.Contains(t, "\x00") })
}

// typeOf says what a field is.
func typeOf(name string) string {
	switch name {
	case "eventIds":
		return `a list of texts, such as ["0198f2a1-7c3b-7def-8123-456789abcdef"]`
	case "all", "outOfOrder", "dryRun":
		return "true or false"
	case "rate":
		return "a number"
	}
	return "a text"
}

func sorted(given map[string]json.RawMessage) []string {
	names := make([]string, 0, len(given))
	for name := range given {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// quoted is a part of the typed text, short enough for a failure.
func quoted(text string) string {
	return fmt.Sprintf("%q", printable.Cut(text, 60+len("…")))
}
