package publish

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/relay"
)

// filling opens a sender whose topic "orders" waits for full requests. sizes gets the events of each request, and
// when it began.
func filling(t *testing.T, s *stub, fill time.Duration) (sender relay.Sender, sizes map[time.Duration]int) {
	t.Helper()
	began := time.Now()
	sizes = make(map[time.Duration]int)
	s.send = func(_ context.Context, events []*relay.Event) (a answer) {
		s.mu.Lock()
		defer s.mu.Unlock()
		sizes[time.Since(began)] += len(events)
		return a
	}
	p := stubs(map[string]*stub{"orders": s})
	p.routes["orders"].fill = fill
	sender = p.Open(newDiary().request())
	t.Cleanup(func() { require.NoError(t, sender.Close(context.Background())) })
	return sender, sizes
}

func TestFill_LetsAnEventWaitForOthersOfItsRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sender, sizes := filling(t, &stub{}, 30*time.Millisecond)
		for i := range 12 { // at 0, 10, … 110 ms
			sender.Add("orders", numbered(1+i, 1, nil))
			time.Sleep(10 * time.Millisecond)
			synctest.Wait()
		}
		time.Sleep(time.Second)
		synctest.Wait()
		total := 0
		for at, n := range sizes {
			require.Zero(t, at%(10*time.Millisecond))
			require.GreaterOrEqual(t, n, 3, "the request at %s", at)
			total += n
		}
		require.Equal(t, 12, total)
	})
}

func TestFill_SendsAFullRequestAtOnceAndTheRestWhenItsTimeIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sender, sizes := filling(t, &stub{}, 30*time.Millisecond)
		sender.Add("orders", numbered(1, 4, nil))
		time.Sleep(10 * time.Millisecond)
		sender.Add("orders", numbered(5, 18, nil))
		time.Sleep(time.Second)
		synctest.Wait()
		require.Equal(t, map[time.Duration]int{10 * time.Millisecond: 20, 40 * time.Millisecond: 2}, sizes)
	})
}

func TestFill_DoesNotDelayTheNextEventOfAKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sender, sizes := filling(t, &stub{ordered: true}, 30*time.Millisecond)
		sender.Add("orders", numbered(1, 3, func(int64) string { return "key" }))
		time.Sleep(time.Second)
		synctest.Wait()
		require.Equal(t, map[time.Duration]int{30 * time.Millisecond: 3}, sizes, "the others have waited when it is their turn")
	})
}

func TestFill_SendsAtOnceWhatAnAnswerMakesAFullRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stub{ordered: true}
		sender, sizes := filling(t, s, MaxFill)
		note := s.send
		s.send = func(ctx context.Context, events []*relay.Event) answer {
			time.Sleep(100 * time.Millisecond)
			return note(ctx, events)
		}
		ten := func(id int64) string { return fmt.Sprint(id % 10) }
		sender.Add("orders", numbered(1, 10, ten))
		sender.Add("orders", numbered(11, 10, ten)) // each behind an event in flight
		sender.Add("orders", numbered(21, 1, func(int64) string { return "another" }))
		time.Sleep(500 * time.Millisecond)
		synctest.Wait()
		require.Equal(t, map[time.Duration]int{100 * time.Millisecond: 10, 200 * time.Millisecond: 10}, sizes)
	})
}

func TestFill_HoldsBackNeitherOtherTopicsNorTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow, quick := &stub{}, &stub{}
		p := stubs(map[string]*stub{"slow": slow, "quick": quick})
		p.routes["slow"].fill = MaxFill
		d := newDiary()
		sender := p.Open(d.request())
		for i := range 50 {
			sender.Add("slow", numbered(1+i, 1, nil))
			sender.Add("quick", numbered(1+i, 1, nil))
			synctest.Wait()
			require.Len(t, quick.ids(), 1+i)
		}
		require.Len(t, slow.ids(), 50)
		sender.Add("slow", numbered(51, 1, nil))
		sender.Drop("slow")
		synctest.Wait()
		require.Equal(t, 1, d.drops("slow"))
		sender.Add("slow", numbered(52, 1, nil))
		began := time.Now()
		require.NoError(t, sender.Close(t.Context()))
		require.Less(t, time.Since(began), MaxFill)
		require.Len(t, slow.ids(), 50)
	})
}
