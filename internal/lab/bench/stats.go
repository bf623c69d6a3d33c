package bench

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// percentile is the smallest of the sorted values that at least q of them (0 to
// 1) do not exceed. It is 0 if there are none.
func percentile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	rank := int(math.Ceil(q * float64(len(sorted))))
	return sorted[min(max(rank, 1), len(sorted))-1]
}

// percentiles sorts values.
func percentiles(values []time.Duration) Percentiles {
	slices.Sort(values)
	return Percentiles{
		P50: millis(percentile(values, 0.50)), P95: millis(percentile(values, 0.95)),
		P99: millis(percentile(values, 0.99)), Max: millis(percentile(values, 1)),
	}
}

func millis(d time.Duration) float64 { return round(float64(d)/float64(time.Millisecond), 2) }

// round keeps so many digits behind the point: more would pretend precision.
func round(x float64, digits int) float64 {
	p := math.Pow10(digits)
	return math.Round(x*p) / p
}

func mean(xs ...float64) float64 {
	if len(xs) == 0 {
		return 0
	}
	sum := 0.0
	for _, x := range xs {
		sum += x
	}
	return sum / float64(len(xs))
}

// rate is n a second, rounded.
func rate(n int, d time.Duration) float64 {
	if d <= 0 {
		return 0
	}
	return round(float64(n)/d.Seconds(), 1)
}

// published is one event's way. acked is zero if it was never acknowledged.
type published struct{ committed, acked time.Time }

// gap is a time in which something waited and nothing was acknowledged.
type gap struct {
	from, to time.Time
}

func (g gap) length() time.Duration { return g.to.Sub(g.from) }

// gaps finds the times between two consecutive acknowledgements, in order. A gap
// begins at the earlier acknowledgement or, if nothing was waiting then, with the
// next commit: a producer's pause is no gap. The time before the first
// acknowledgement is left out, because it is the relay's start.
func gaps(events []published) []gap {
	byCommit := slices.SortedFunc(slices.Values(events), func(a, b published) int { return a.committed.Compare(b.committed) })
	var acks []time.Time
	for _, e := range events {
		if !e.acked.IsZero() {
			acks = append(acks, e.acked)
		}
	}
	slices.SortFunc(acks, time.Time.Compare)
	var found []gap
	oldest := 0 // in byCommit, the first that is not acknowledged yet
	for i := 1; i < len(acks); i++ {
		from := acks[i-1]
		for oldest < len(byCommit) && !byCommit[oldest].acked.IsZero() && !byCommit[oldest].acked.After(from) {
			oldest++
		}
		if oldest < len(byCommit) && byCommit[oldest].committed.After(from) {
			from = byCommit[oldest].committed
		}
		if from.Before(acks[i]) {
			found = append(found, gap{from, acks[i]})
		}
	}
	return found
}

// longest is the longest of the gaps that touch the time from..to; zero times
// leave that end open.
func longest(gaps []gap, from, to time.Time) gap {
	var most gap
	for _, g := range gaps {
		touches := (from.IsZero() || g.to.After(from)) && (to.IsZero() || g.from.Before(to))
		if touches && g.length() > most.length() {
			most = g
		}
	}
	return most
}

// msText writes milliseconds for people.
func msText(values ...float64) string {
	var parts []string
	for _, v := range values {
		parts = append(parts, fmt.Sprintf("%.1f", v))
	}
	return strings.Join(parts, ", ") + " ms"
}
