package relay

import (
	"slices"
	"testing"
	"time"
)

func TestSelection_HasTimesThatAreInstantsOrAgesWhenItWasAskedFor(t *testing.T) {
	at := time.Date(2026, 1, 31, 15, 0, 0, 0, time.UTC)
	since, until, err := Selection{Since: "2h", Until: "2026-01-31T14:30:00Z"}.Range(at)
	if err != nil || !since.Equal(at.Add(-2*time.Hour)) || !until.Equal(at.Add(-30*time.Minute)) {
		t.Errorf("got %v to %v, %v", since, until, err)
	}
	if since, until, err := (Selection{}).Range(at); since != nil || until != nil || err != nil {
		t.Errorf("nothing is bounded: %v to %v, %v", since, until, err)
	}
	for _, wrong := range []Selection{{Since: "yesterday"}, {Until: "-2h"}, {Since: "1h", Until: "2h"}, {Since: "2h", Until: "2h"}} {
		if _, _, err := wrong.Range(at); err == nil {
			t.Errorf("%+v was accepted", wrong)
		}
	}
}

func TestSelection_NamesItsFiltersWithoutTheirValues(t *testing.T) {
	for _, c := range []struct {
		chosen Selection
		by     []string
	}{
		{Selection{}, []string{"all"}},
		{Selection{Key: "customer-4711", Code: "AccessDenied"}, []string{"key", "code"}},
		{Selection{EventIDs: []string{"a", "b"}, Type: "OrderPlaced", Since: "2h", Until: "1h"}, []string{"event-id", "type", "since", "until"}},
	} {
		if by := c.chosen.By(); !slices.Equal(by, c.by) {
			t.Errorf("%+v is by %v", c.chosen, by)
		}
	}
}
