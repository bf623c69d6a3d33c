package postgres

import (
	"context"
	"io"
	"net"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/testenv"
	"github.com/temporal-outbox/relay/internal/timing"
	"github.com/temporal-outbox/relay/outbox"
)

// silencer is a connection to the database that can fall silent: it then forwards nothing and
// reports no error.
type silencer struct{ silent atomic.Bool }

func (g *silencer) inFrontOf(t *testing.T, database string) (way string) {
	t.Helper()
	u, err := url.Parse(database)
	require.NoError(t, err)
	target := u.Host
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", target) //nolint:noctx // a test
			if err != nil {
				_ = client.Close()
				return
			}
			t.Cleanup(func() { _, _ = client.Close(), server.Close() })
			go func() { _, _ = io.Copy(gagged{g, server}, client) }()
			go func() { _, _ = io.Copy(gagged{g, client}, server) }()
		}
	}()
	u.Host = l.Addr().String()
	return u.String()
}

type gagged struct {
	*silencer
	io.Writer
}

func (g gagged) Write(b []byte) (int, error) {
	if g.silent.Load() {
		return len(b), nil
	}
	return g.Writer.Write(b)
}

// A database that is silent is worse than one that is away: without a bound, whoever asks
// it waits for ever.
func TestTimeout_EndsEveryCallToASilentDatabase(t *testing.T) {
	url := testenv.DatabaseURL(t)
	var network silencer
	s, err := Open(t.Context(), Config{URL: network.inFrontOf(t, url), MaxConns: 32, Timeout: 200 * time.Millisecond, LongTimeout: 200 * time.Millisecond})
	require.NoError(t, err)
	o := openBy(t, url, url)
	o.write("orders", 1)
	o.claim() // which makes lanes
	event, err := outbox.ParseID(query[string](o, `SELECT event_id::text FROM outbox.event`))
	require.NoError(t, err)
	var all relay.Selection
	for name, ask := range map[string]func(ctx context.Context) error{
		"Reach":       s.Reach,
		"Rights":      s.Rights,
		"Known":       func(ctx context.Context) error { return s.Known(ctx, "orders") },
		"Status":      func(ctx context.Context) error { _, err := s.Status(ctx); return err },
		"ByEventID":   func(ctx context.Context) error { _, err := s.ByEventID(ctx, event, nil); return err },
		"ByKey":       func(ctx context.Context) error { _, err := s.ByKey(ctx, "orders", "k1", 1, nil); return err },
		"Content":     func(ctx context.Context) error { _, err := s.Content(ctx, event, 1, false); return err },
		"DeadLetters": func(ctx context.Context) error { _, err := s.DeadLetters(ctx, "orders", all, 1); return err },
		"DeadCounts":  func(ctx context.Context) error { _, err := s.DeadCounts(ctx); return err },
		"CountDead":   func(ctx context.Context) error { _, err := s.CountDead(ctx, "orders", all); return err },
		"CountPublished": func(ctx context.Context) error {
			_, _, err := s.CountPublished(ctx, "orders", all, nil)
			return err
		},
		"lives": func(ctx context.Context) error { _, err := s.lives(ctx, byEventIDSQL, event, 0, 1); return err },
		"countWindow": func(ctx context.Context) error {
			_, err := s.countWindow(ctx, append(arguments("orders", all, span{}), 0, 1))
			return err
		},
		"idAt":   func(ctx context.Context) error { _, err := s.idAt(ctx, time.Now(), 1, 2); return err },
		"bounds": func(ctx context.Context) error { _, _, err := s.bounds(ctx, span{}); return err },
		"SameUnderWay": func(ctx context.Context) error {
			_, _, err := s.SameUnderWay(ctx, relay.Redrive, "orders", all)
			return err
		},
	} {
		network.silent.Store(false)
		waitFor(t, "the database to answer", func() bool { return s.pool.Ping(t.Context()) == nil })
		network.silent.Store(true)
		ended := make(chan error, 1)
		ctx, cancel := context.WithCancel(t.Context())
		go func() { ended <- ask(ctx) }()
		select {
		case err := <-ended:
			require.ErrorIs(t, err, context.DeadlineExceeded, name)
		case <-time.After(10 * time.Second):
			t.Errorf("%s still waits", name)
		}
		cancel()
	}
	network.silent.Store(false)
	go s.Close() // which waits for connections that nobody answers on
}

// After a failover a name may lead to a machine that is gone. The attempts to connect to
// it must not keep the pool's places.
func TestSession_ThatNobodyAnswersGivesItsPlaceUpWithinSeconds(t *testing.T) {
	var network silencer
	s, err := Open(t.Context(), Config{URL: network.inFrontOf(t, testenv.DatabaseURL(t)), MaxConns: 2, Timeout: 500 * time.Millisecond})
	require.NoError(t, err)
	network.silent.Store(true)
	for range 3 {
		require.Error(t, s.Reach(t.Context()))
	}
	network.silent.Store(false)
	testenv.Eventually(t, 10*time.Second, func() error { return s.Reach(t.Context()) })
	s.Close()
}

// The places of the pool are taken by attempts to connect that nobody answers.
func TestApart_SettlesWhileThePoolIsStuck(t *testing.T) {
	database := testenv.DatabaseURL(t)
	var network silencer
	way := network.inFrontOf(t, database)
	s, err := Open(t.Context(), Config{URL: way, MaxConns: 2})
	require.NoError(t, err)
	o := openBy(t, database, database)
	_, event := o.loaded("orders", 1)
	network.silent.Store(true)
	for range 2 {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		require.Error(t, s.Settle(ctx, "orders", event))
		cancel()
	}
	network.silent.Store(false)
	ctx, cancel := context.WithTimeout(t.Context(), timing.SettleTry)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- s.Settle(ctx, "orders", event) }()
	settle, end, err := s.Apart(ctx)
	require.NoError(t, err)
	require.NoError(t, settle(ctx, "orders", event))
	require.NoError(t, settle(ctx, "orders", event), "as often as asked")
	end()
	require.Zero(t, o.pending())
	require.ErrorIs(t, <-ended, context.DeadlineExceeded, "the pool has no place")
	go s.Close()
}

func TestApart_LeavesTimeForTheAddressOfANameThatAnswers(t *testing.T) {
	s, err := Open(t.Context(), Config{URL: testenv.DatabaseURL(t)})
	require.NoError(t, err)
	defer s.Close()
	config := s.pool.Config()
	const silent, answers = "192.0.2.1", "192.0.2.2"
	host := config.ConnConfig.Host
	config.ConnConfig.Host, config.ConnConfig.Fallbacks = "a-name", nil
	config.ConnConfig.LookupFunc = func(context.Context, string) ([]string, error) { return []string{silent, answers}, nil }
	config.ConnConfig.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		if strings.HasPrefix(address, silent) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return (&net.Dialer{}).DialContext(ctx, network, strings.Replace(address, answers, host, 1))
	}
	s.pool.Close()
	s.pool, err = pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), timing.SettleTry)
	defer cancel()
	_, end, err := s.Apart(ctx)
	require.NoError(t, err)
	end()
}

func TestApart_LeavesTimeForTheHostThatAnswers(t *testing.T) {
	database := testenv.DatabaseURL(t)
	var network silencer
	network.silent.Store(true)
	u, err := url.Parse(database)
	require.NoError(t, err)
	gone, err := url.Parse(network.inFrontOf(t, database))
	require.NoError(t, err)
	u.Host = gone.Host + "," + u.Host
	s, err := Open(t.Context(), Config{URL: u.String()})
	require.NoError(t, err)
	defer s.Close()
	ctx, cancel := context.WithTimeout(t.Context(), timing.SettleTry)
	defer cancel()
	_, end, err := s.Apart(ctx)
	require.NoError(t, err)
	end()
}
