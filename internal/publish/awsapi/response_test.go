package awsapi

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/temporal-outbox/relay/internal/relay"
)

func TestBatch_AccountsForEveryEntryOfAnyResponse(t *testing.T) {
	id := rapid.Custom(func(t *rapid.T) *string {
		s := rapid.OneOf(rapid.StringMatching(`[0-9]`), rapid.StringMatching(`[0-9:/-]{0,2}`)).Draw(t, "id")
		return &s
	})
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, MaxEvents).Draw(t, "n")
		accepted := rapid.SliceOf(id).Draw(t, "accepted")
		failed := rapid.SliceOf(id).Draw(t, "failed")
		code := "InternalError"
		var b Batch
		b.Begin(t.Context(), n, nil)
		lists := []func(){
			func() {
				for _, id := range append(accepted, nil) {
					b.Accepted(id, &code)
				}
			},
			func() {
				for _, id := range failed {
					b.Failed(id, &code, nil, false)
				}
			},
		}
		for _, i := range rapid.Permutation([]int{0, 1}).Draw(t, "order") {
			lists[i]()
		}
		a := b.Answer(nil)
		if len(a.Outcomes) != n {
			t.Fatalf("%d entries have an outcome, of %d that were sent", len(a.Outcomes), n)
		}
		for i := range n {
			want := relay.CodeUnanswered
			for _, id := range accepted {
				if *id == EntryIDs[i] {
					want = ""
				}
			}
			for _, id := range failed {
				if *id == EntryIDs[i] {
					want = code
				}
			}
			got := ""
			if _, err := a.Of(i); err != nil {
				got = err.Code
			}
			if got != want {
				t.Fatalf("entry %d: %q, want %q", i, got, want)
			}
		}
	})
}
