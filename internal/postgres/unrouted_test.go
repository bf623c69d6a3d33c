package postgres

import (
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/testenv"
)

func TestUnrouted_NamesEachPendingTopicThatIsNotRouted(t *testing.T) {
	o := open(t)
	limited, err := Open(t.Context(), Config{URL: testenv.RoleURL(t, o.db, "outbox_relay")})
	require.NoError(t, err)
	defer limited.Close()
	for topic, n := range map[string]int{"a": 1, "Audit": 2, "orders": 50, "odrers": 40, "orders2": 3, "größe": 4, "zebra": 5} {
		o.write(topic, n)
	}
	for name, c := range map[string]struct {
		routed []string
		want   []Unrouted // but for their lanes
	}{
		"some": {[]string{"orders", "a", "idle", "größe"}, []Unrouted{{Topic: "Audit", Events: 2}, {Topic: "odrers", Events: 40}, {Topic: "orders2", Events: 3}, {Topic: "zebra", Events: 5}}},
		"all":  {[]string{"a", "Audit", "orders", "odrers", "orders2", "größe", "zebra"}, []Unrouted{}},
		"last": {[]string{"a", "Audit", "orders", "odrers", "orders2", "größe"}, []Unrouted{{Topic: "zebra", Events: 5}}},
	} {
		found, err := limited.Unrouted(t.Context(), c.routed, 20)
		require.NoError(t, err)
		for i := range found {
			require.Positive(t, found[i].Lanes)
			require.LessOrEqual(t, found[i].Lanes, min(16, found[i].Events))
			found[i].Lanes = 0
		}
		require.Equal(t, c.want, found, name)
	}
	found, err := limited.Unrouted(t.Context(), nil, 3)
	require.NoError(t, err)
	require.Len(t, found, 3)
}

// As for a claim: a snapshot that somebody holds keeps what was settled in place.
func TestUnrouted_ReadsNothingOfTheTopicsThatAreRouted(t *testing.T) {
	o := open(t)
	var routed []string
	for i := range 20 {
		routed = append(routed, fmt.Sprintf("routed-%02d", i))
	}
	o.write("unrouted", unroutedCount+5)
	for i := range 300 {
		o.write(fmt.Sprintf("routed-05-%03d", i), 1)
	}
	pages := func() int { return pagesOf(o, unroutedSQL, routed, 21, unroutedCount, relay.Lanes) }
	before := pages()

	holder, err := o.db.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	require.NoError(t, err)
	defer holder.Rollback(t.Context())
	_, err = holder.Exec(t.Context(), `SELECT count(*) FROM outbox.pending`)
	require.NoError(t, err)
	for _, topic := range routed {
		o.write(topic, 2_000)
	}
	o.exec(`DELETE FROM outbox.pending WHERE topic = ANY ($1)`, routed)
	after := pages()
	t.Logf("pages read: %d, and %d with 40,000 settled events", before, after)
	require.Less(t, after, 21*16*5+2*unroutedCount, "a few for each lane of 21 topics, and those that are counted")

	found, err := o.Unrouted(t.Context(), routed, 1_000)
	require.NoError(t, err)
	require.Len(t, found, 301)
	require.Equal(t, Unrouted{Topic: "unrouted", Events: unroutedCount, More: true, Lanes: 16}, found[300])
}
