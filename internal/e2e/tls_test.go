package e2e

import (
	"crypto/tls"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/testenv"
)

// guarded is an outbox whose programs reach PostgreSQL, Temporal and AWS over TLS only,
// with certificates of a CA of the test's own, Temporal with one of the client's as
// well.
type guarded struct {
	*outbox
	postgres, temporal, aws *tlsProxy
	trusted, stranger       string // bundles of the right CA and of another one
	cert, key               string
}

func newGuarded(t *testing.T, destination string) *guarded {
	t.Helper()
	o := secretive(t, destination)
	ca := newAuthority(t)
	g := &guarded{outbox: o, trusted: ca.bundle(), stranger: newAuthority(t).bundle()}
	g.cert, g.key = ca.client()
	server := &tls.Config{Certificates: []tls.Certificate{ca.server()}, MinVersion: tls.VersionTLS12}
	mutual := server.Clone()
	mutual.ClientAuth, mutual.ClientCAs, mutual.NextProtos = tls.RequireAndVerifyClientCert, ca.pool, []string{"h2"}
	endpoint, err := url.Parse(os.Getenv("AWS_ENDPOINT_URL"))
	require.NoError(t, err)
	g.postgres = newTLSProxy(t, hostOf(t, o.url), server, postgresBegin)
	g.temporal = newTLSProxy(t, os.Getenv("TEMPORAL_ADDRESS"), mutual, nil)
	g.aws = newTLSProxy(t, endpoint.Host, server, nil)
	o.env = append(o.env, g.database("verify-full", g.trusted),
		"TEMPORAL_ADDRESS="+g.temporal.address, "TEMPORAL_TLS_SERVER_CA_CERT_PATH="+g.trusted,
		"TEMPORAL_TLS_CLIENT_CERT_PATH="+g.cert, "TEMPORAL_TLS_CLIENT_KEY_PATH="+g.key,
		"AWS_ENDPOINT_URL=https://"+g.aws.address, "AWS_CA_BUNDLE="+g.trusted)
	o.env = slices.Clip(o.env) // several append to it at once
	return g
}

// database is DATABASE_URL with the proxy's address.
func (g *guarded) database(mode, bundle string) string {
	g.t.Helper()
	var set string
	for _, kv := range g.env { // the last one holds
		if v, ok := strings.CutPrefix(kv, "DATABASE_URL="); ok {
			set = v
		}
	}
	u, err := url.Parse(set)
	require.NoError(g.t, err)
	u.Host = g.postgres.address
	u.RawQuery = url.Values{"sslmode": {mode}, "sslrootcert": {bundle}}.Encode()
	return "DATABASE_URL=" + u.String()
}

func TestTLS_DeliversWithEveryConnectionEncryptedAndACAOfOnesOwn(t *testing.T) {
	t.Parallel()
	q := newQueue(t, testenv.Name(t))
	g := newGuarded(t, q.name)
	collector := testenv.NewCollector(t)
	at, err := url.Parse(collector.URL)
	require.NoError(t, err)
	ca := newAuthority(t)
	traces := newTLSProxy(t, at.Host, &tls.Config{Certificates: []tls.Certificate{ca.server()}, MinVersion: tls.VersionTLS12}, nil)
	w := g.work("OTEL_EXPORTER_OTLP_ENDPOINT=https://"+traces.address, "OTEL_EXPORTER_OTLP_CERTIFICATE="+ca.bundle(), "OTEL_BSP_SCHEDULE_DELAY=100")
	g.schedule()
	g.write("orders", "e", 1, 1)
	q.receive(1, 30*time.Second)
	require.Contains(t, g.starter("status"), "orders")
	for name, p := range map[string]*tlsProxy{"PostgreSQL": g.postgres, "Temporal": g.temporal, "AWS": g.aws} {
		require.Positive(t, p.secure.Load(), name)
	}
	testenv.Eventually(t, 20*time.Second, func() error {
		if traces.secure.Load() == 0 || len(collector.Spans()) == 0 {
			return errNotYet
		}
		return nil
	})
	require.NotContains(t, w.text(), "level=WARN")
	out, status := g.check(nil)
	require.Zero(t, status, out)
	require.NotContains(t, out, "encryption")

	// ECS gives a program the contents of a secret, and no file.
	var contents []string
	for variable, file := range map[string]string{"CLIENT_CERT": g.cert, "CLIENT_KEY": g.key, "SERVER_CA_CERT": g.trusted} {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		contents = append(contents, "TEMPORAL_TLS_"+variable+"_PATH=", "TEMPORAL_TLS_"+variable+"_DATA="+string(text))
	}
	out, status = g.check(contents)
	require.Zero(t, status, out)
}

func TestTLS_AConnectionToAnUntrustedServerIsRefusedAndNamed(t *testing.T) {
	t.Parallel()
	q := newQueue(t, testenv.Name(t))
	g := newGuarded(t, q.name)
	_, port, err := net.SplitHostPort(g.postgres.address)
	require.NoError(t, err)
	const unknown = "certificate signed by unknown authority"
	for name, c := range map[string]struct {
		env     []string
		where   string // which connection the text is to name
		why     string
		command []string // of the starter
	}{
		"PostgreSQL with another CA": {[]string{g.database("verify-full", g.stranger)}, "database", unknown, []string{"status"}},
		"PostgreSQL under another name": {
			[]string{strings.Replace(g.database("verify-full", g.trusted), g.postgres.address, "localhost:"+port, 1)}, "database", "certificate is not valid", []string{"status"},
		},
		"PostgreSQL in plain text": {[]string{g.database("disable", "")}, "database", "", []string{"status"}},
		"Temporal with another CA": {[]string{"TEMPORAL_TLS_SERVER_CA_CERT_PATH=" + g.stranger}, "Temporal", unknown, []string{"schedule"}},
		"Temporal without a client's certificate": {
			[]string{"TEMPORAL_TLS_CLIENT_CERT_PATH=", "TEMPORAL_TLS_CLIENT_KEY_PATH="}, "Temporal", "certificate required", []string{"schedule"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := g.startWorker(c.env...)
			select {
			case <-w.done:
			case <-time.After(60 * time.Second):
				t.Fatalf("the worker started:\n%s", w.text())
			}
			out, status := g.check(c.env)
			require.Equal(t, 1, status)
			starter := *g.outbox
			starter.env = append(append([]string{}, g.env...), c.env...)
			said, err := starter.tryStarter(c.command...)
			require.Error(t, err)
			for _, text := range []string{w.text(), out, said} {
				require.Contains(t, text, c.where)
				require.Contains(t, text, c.why)
				for _, secret := range []string{passwordMarker, secretMarker} {
					require.NotContains(t, text, secret)
				}
			}
			require.Error(t, w.err)
		})
	}
}

// A destination that cannot be reached harms its topics only, and so one that is not
// trusted: the worker starts, and says so.
func TestTLS_ADestinationThatIsNotTrustedIsNamedAndItsEventsWait(t *testing.T) {
	t.Parallel()
	q := newQueue(t, testenv.Name(t))
	g := newGuarded(t, q.name)
	w := g.work("AWS_CA_BUNDLE=" + g.stranger)
	require.Regexp(t, `level=WARN msg="topic cannot be published now.*topic=orders .*certificate signed by unknown authority`, w.text())
	require.NotContains(t, w.text(), secretMarker)
	out, status := g.check([]string{"AWS_CA_BUNDLE=" + g.stranger})
	require.Equal(t, 1, status)
	require.Regexp(t, `^failed .*certificate signed by unknown authority`, line(t, out, "orders: destination"))
	require.Zero(t, g.aws.secure.Load())

	w = g.startWorker("AWS_CA_BUNDLE=/nowhere.pem")
	<-w.done
	require.Error(t, w.err)
	require.Contains(t, w.text(), "AWS")
	require.Contains(t, w.text(), "/nowhere.pem")
}
