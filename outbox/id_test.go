package outbox_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/temporal-outbox/relay/outbox"
)

func TestNewID_IsAUUIDOfVersion7(t *testing.T) {
	before := time.Now().UnixMilli()
	id := outbox.NewID()
	after := time.Now().UnixMilli()

	u, err := uuid.Parse(id.String()) // an independent reading
	if err != nil {
		t.Fatal(err)
	}
	if u.Version() != 7 || u.Variant() != uuid.RFC4122 {
		t.Errorf("%s: version %d, variant %v", id, u.Version(), u.Variant())
	}
	s, ns := u.Time().UnixTime()
	if ms := s*1000 + ns/1e6; ms < before || ms > after {
		t.Errorf("%s carries the time %d, want %d to %d", id, ms, before, after)
	}
	if outbox.ID(u) != id {
		t.Errorf("%s converts to %s", u, outbox.ID(u))
	}
}

func TestNewID_DiffersFromAllOthers(t *testing.T) {
	seen := map[outbox.ID]bool{}
	for range 10_000 {
		id := outbox.NewID()
		if seen[id] || id.IsZero() {
			t.Fatalf("%s again, or zero", id)
		}
		seen[id] = true
	}
}

func TestID_SurvivesTextAndJSON(t *testing.T) {
	id := outbox.NewID()
	b, err := json.Marshal(map[string]outbox.ID{"id": id})
	if err != nil || string(b) != `{"id":"`+id.String()+`"}` {
		t.Fatalf("%s, %v", b, err)
	}
	var back map[string]outbox.ID
	if err := json.Unmarshal(b, &back); err != nil || back["id"] != id {
		t.Errorf("%v, %v", back, err)
	}
}

func TestParseID_TakesOnlyTheCanonicalForm(t *testing.T) {
	const canonical = "0198f2a1-7c3b-7def-8123-456789abcdef"
	for _, s := range []string{canonical, "0198F2A1-7C3B-7DEF-8123-456789ABCDEF"} {
		if id, err := outbox.ParseID(s); err != nil || id.String() != canonical {
			t.Errorf("%s: %s, %v", s, id, err)
		}
	}
	for _, s := range []string{
		"", "0198f2a17c3b7def8123456789abcdef", "{" + canonical + "}", "urn:uuid:" + canonical,
		canonical[:35], canonical + "0", canonical[:35] + "g", "0198f2a1-7c3b-7def-8123_456789abcdef",
		"0198f2a1-7c3b-7def-8123-45678-abcdef",
	} {
		if id, err := outbox.ParseID(s); err == nil {
			t.Errorf("%q is accepted as %s", s, id)
		}
	}
}
