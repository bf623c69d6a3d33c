package activities

import (
	"fmt"
	"testing"
)

// Each event that has its outcome gives its cost back, however many topics wait for room.
func BenchmarkBudgetGive_WhileTopicsWait(b *testing.B) {
	const total = 24 << 20
	for _, waiting := range []int{10, 100, 900} {
		b.Run(fmt.Sprint(waiting), func(b *testing.B) {
			budget := newBudget(total)
			holder := budget.join("holder")
			holder.poll([]int64{total + 1000}, nil)
			wake := make(chan struct{}, 1)
			for i := range waiting {
				budget.join(fmt.Sprintf("orders-%04d.fifo", i)).poll([]int64{3 * 64 << 10}, wake)
			}
			for b.Loop() {
				holder.give(1)
				budget.mu.Lock()
				budget.add(holder, 1)
				budget.mu.Unlock()
			}
		})
	}
}
