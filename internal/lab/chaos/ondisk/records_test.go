package ondisk

import (
	"fmt"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRecords_GivesBackEachRecordInTheOrderOfItsKey(t *testing.T) {
	dir := t.TempDir()
	type record struct{ Key, Text string }
	s, err := New[record](dir, "records", 5)
	require.NoError(t, err)
	for n := range 1000 {
		require.NoError(t, s.Put(fmt.Sprint(n%10), record{fmt.Sprint(n % 10), fmt.Sprintf("%d\n", n)}))
	}
	for range 2 { // as often as one likes
		last, place, all := map[string]int{}, map[string]int{}, 0
		for n := range s.Parts() {
			require.NoError(t, s.Read(n, func(r record) {
				var value int
				_, err := fmt.Sscan(r.Text, &value)
				require.NoError(t, err)
				before, known := last[r.Key]
				require.True(t, !known || before < value)
				require.True(t, !known || place[r.Key] == n)
				last[r.Key], place[r.Key] = value, n
				all++
			}))
		}
		require.Equal(t, 1000, all)
	}
	require.Equal(t, 1000, s.Count())
	s.Close()
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, left)
}
