package testenv

import (
	"crypto/rand"
	"log/slog"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/contrib/envconfig"
	"go.temporal.io/sdk/log"

	"github.com/temporal-outbox/relay/internal/publish/detach"
)

// AWS is the configuration for the endpoint that AWS_ENDPOINT_URL names. All tests
// share its account, so name each queue and topic with Name.
func AWS(t testing.TB) aws.Config {
	t.Helper()
	need(t, "AWS_ENDPOINT_URL")
	cfg, err := config.LoadDefaultConfig(t.Context())
	if err != nil {
		t.Fatalf("read AWS's configuration: %v", err)
	}
	cfg.HTTPClient = detach.Client{HTTPClient: cfg.HTTPClient}
	return cfg
}

// Temporal is a client of the server that TEMPORAL_ADDRESS names, closed when
// the test ends. It logs nothing.
func Temporal(t testing.TB, set ...func(*client.Options)) client.Client {
	t.Helper()
	need(t, "TEMPORAL_ADDRESS")
	options, err := envconfig.LoadDefaultClientOptions()
	if err != nil {
		t.Fatalf("read Temporal's configuration: %v", err)
	}
	options.Logger = log.NewStructuredLogger(slog.New(slog.DiscardHandler))
	for _, change := range set {
		change(&options)
	}
	c, err := client.DialContext(t.Context(), options)
	if err != nil {
		t.Fatalf("connect to Temporal: %v", err)
	}
	t.Cleanup(c.Close)
	return c
}

// TaskQueue is the name of a task queue that no other test, and no earlier run of
// this one, listens on.
func TaskQueue(t testing.TB) string { return Name(t) }

// Name is unique, says which test it belongs to, and suits queues, topics,
// workflows and schedules: letters, digits, "-" and "_", at most 60 of them.
func Name(t testing.TB) string {
	name := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '-', r == '_':
			return r
		default:
			return '-'
		}
	}, strings.TrimPrefix(t.Name(), "Test"))
	return name[:min(len(name), 47)] + "-" + strings.ToLower(rand.Text()[:12])
}
