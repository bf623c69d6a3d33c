package service

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMemoryLimit_IsBelowTheContainersAndAboveWhatIsAlive(t *testing.T) {
	const mib = 1 << 20
	for name, c := range map[string]struct {
		container uint64
		payloads  int64
		alive     uint64
		want      int64
	}{
		"no container":               {math.MaxInt64, 24 * mib, 30 * mib, 144 * mib},
		"a large container":          {1024 * mib, 24 * mib, 30 * mib, 144 * mib},
		"a small container":          {100 * mib, 24 * mib, 30 * mib, 90 * mib},
		"more alive, as of topics":   {math.MaxInt64, 24 * mib, 100 * mib, 300 * mib},
		"more alive, in a container": {256 * mib, 24 * mib, 100 * mib, 256 * mib / 10 * 9},
		"a larger budget":            {math.MaxInt64, 100 * mib, 30 * mib, 296 * mib},
		"nonsense":                   {math.MaxUint64, math.MaxInt64, math.MaxUint64, math.MaxInt64 / 4 / 3 * 3},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, c.want, memoryLimit(c.container, c.payloads, c.alive))
		})
	}
}

func TestBytesOf_ReadsASizeWithItsUnit(t *testing.T) {
	for text, want := range map[string]int64{"24MiB": 24 << 20, "1 GiB": 1 << 30, "0KiB": 0, "1048576KiB": 1 << 30} {
		got, err := bytesOf(text)
		require.NoError(t, err)
		require.Equal(t, want, got, text)
	}
	for _, text := range []string{"", "24", "24MB", "MiB", "-1MiB", "1.5MiB", "24 M", "99999999999999GiB", "24mib"} {
		_, err := bytesOf(text)
		require.Error(t, err, text)
	}
}

func TestReadSettings_NamesAPayloadBudgetThatIsWrong(t *testing.T) {
	for _, bad := range []string{"24", "24MB", "1023KiB", "much"} {
		t.Setenv("OUTBOX_PAYLOAD_BUDGET", bad)
		_, err := readSettings()
		require.ErrorContains(t, err, `OUTBOX_PAYLOAD_BUDGET is "`+bad+`": give it a size of at least 1MiB with its unit (KiB, MiB or GiB), such as 24MiB`)
	}
	for text, want := range map[string]int64{"": 24 << 20, "1MiB": 1 << 20, "2GiB": 2 << 30} {
		t.Setenv("OUTBOX_PAYLOAD_BUDGET", text)
		s, err := readSettings()
		require.Error(t, err, "other settings are missing")
		require.NotContains(t, err.Error(), "OUTBOX_PAYLOAD_BUDGET")
		require.Equal(t, want, s.payloads)
	}
}
