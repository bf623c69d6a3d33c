package relay

import "testing"

func TestLanes_ReadAsRanges(t *testing.T) {
	for want, lanes := range map[string][]int16{
		"":              nil,
		"5":             {5},
		"0-15":          {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
		"0-1,3,7-9":     {0, 1, 3, 7, 8, 9},
		"0,2,4,6":       {0, 2, 4, 6},
		"1-2,4-5,14-15": {1, 2, 4, 5, 14, 15},
	} {
		if got := FormatLanes(lanes); got != want {
			t.Errorf("FormatLanes(%v) = %q, want %q", lanes, got, want)
		}
	}
}
