package service

import (
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/caarlos0/env/v11"

	"github.com/temporal-outbox/relay/activities"
	"github.com/temporal-outbox/relay/internal/postgres"
	"github.com/temporal-outbox/relay/internal/printable"
	"github.com/temporal-outbox/relay/internal/publish"
	"github.com/temporal-outbox/relay/workflows"
)

// settings is the worker's environment. Temporal's own variables and AWS's are
// read by their libraries.
type settings struct {
	DatabaseURL string     `env:"DATABASE_URL" doc:"PostgreSQL database that has the outbox" required:"yes"`
	Auth        string     `env:"OUTBOX_DATABASE_AUTH" envDefault:"password" doc:"password: that of DATABASE_URL; iam: IAM database authentication of RDS and Aurora, a token for each connection"`
	Config      string     `env:"OUTBOX_CONFIG" doc:"path of the file that routes topics" required:"yes"`
	TaskQueue   string     `env:"OUTBOX_TASK_QUEUE" envDefault:"outbox-relay" doc:"Temporal task queue, and the name of the schedule: one for each outbox in a namespace; printable ASCII"`
	Connections int32      `env:"OUTBOX_DATABASE_CONNECTIONS" envDefault:"16" doc:"size of the connection pool, at least 2; a worker with shared lanes opens up to three connections more"`
	Payloads    string     `env:"OUTBOX_PAYLOAD_BUDGET" envDefault:"24MiB" doc:"memory for the payloads in the worker, in KiB, MiB or GiB, at least 1MiB ([memory](#memory))"`
	Batches     string     `env:"OUTBOX_BATCHES" envDefault:"shared" doc:"shared: workers share the lanes of all topics ([shared lanes](#shared-lanes)); topics: batches of one topic"`
	HTTPAddress string     `env:"OUTBOX_HTTP_ADDRESS" doc:"where to serve /healthz, /readyz and /metrics, such as :8080; nowhere if it is not set"`
	LogFormat   string     `env:"OUTBOX_LOG_FORMAT" envDefault:"text" doc:"text or json"`
	LogLevel    slog.Level `env:"OUTBOX_LOG_LEVEL" envDefault:"info" doc:"debug, info, warn or error"`
	Deployment  string     `env:"TEMPORAL_DEPLOYMENT_NAME" doc:"with TEMPORAL_WORKER_BUILD_ID: run as a version of this Worker Deployment"`
	BuildID     string     `env:"TEMPORAL_WORKER_BUILD_ID" doc:"that version; starter promote makes it current"`

	payloads int64 // Payloads in bytes
	topics   map[string]publish.Destination
	policies map[string]activities.TopicPolicy
}

// The values of OUTBOX_BATCHES.
const (
	batchesOfTopics = "topics"
	batchesShared   = "shared"
)

// readSettings reads the environment and the file that OUTBOX_CONFIG names. Its
// error lists everything that is wrong.
func readSettings() (settings, error) {
	var s settings
	var problems []error
	if err := env.Parse(&s); err != nil {
		var all env.AggregateError
		if errors.As(err, &all) {
			problems = append(problems, all.Errors...)
		} else {
			problems = append(problems, err)
		}
	}
	if s.DatabaseURL == "" {
		problems = append(problems, errors.New("DATABASE_URL is not set: give it the PostgreSQL database that has the outbox, as postgres://user:password@host/name"))
	} else if err := postgres.CheckURL(s.DatabaseURL); err != nil {
		problems = append(problems, fmt.Errorf("DATABASE_URL: %w", err))
	}
	if s.Connections < 2 {
		problems = append(problems, fmt.Errorf("OUTBOX_DATABASE_CONNECTIONS is %d: it must be at least 2", s.Connections))
	}
	var err error
	if s.payloads, err = bytesOf(s.Payloads); err != nil || s.payloads < leastPayloads {
		problems = append(problems, fmt.Errorf("OUTBOX_PAYLOAD_BUDGET is %q: give it a size of at least 1MiB with its unit (KiB, MiB or GiB), such as 24MiB", s.Payloads))
	}
	if err := workflows.CheckTaskQueue(s.TaskQueue); err != nil {
		problems = append(problems, fmt.Errorf("OUTBOX_TASK_QUEUE %w", err))
	}
	if s.Batches != batchesOfTopics && s.Batches != batchesShared {
		problems = append(problems, fmt.Errorf("OUTBOX_BATCHES is %q: it must be shared or topics", s.Batches))
	}
	if s.LogFormat != "text" && s.LogFormat != "json" {
		problems = append(problems, fmt.Errorf("OUTBOX_LOG_FORMAT is %q: it must be text or json", s.LogFormat))
	}
	if (s.Deployment == "") != (s.BuildID == "") {
		problems = append(problems, errors.New("TEMPORAL_DEPLOYMENT_NAME and TEMPORAL_WORKER_BUILD_ID go together: set both for a versioned worker, or neither"))
	}
	topics, err := readTopics(s.Config)
	if err != nil {
		problems = append(problems, err)
	}
	s.topics = make(map[string]publish.Destination, len(topics))
	s.policies = make(map[string]activities.TopicPolicy, len(topics))
	for name, t := range topics {
		s.topics[name] = t.destination()
		s.policies[name] = activities.TopicPolicy{OnPoison: t.OnPoison, GiveUpAfter: t.GiveUpAfter, MaxPerSecond: t.MaxPerSecond, Receipts: t.Receipts}
	}
	return s, errors.Join(problems...)
}

func newLogger(s settings) *slog.Logger {
	options := &slog.HandlerOptions{Level: s.LogLevel}
	out := printable.Writer{Out: os.Stderr} // JSON has some control characters as they are
	if s.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(out, options))
	}
	return slog.New(slog.NewTextHandler(out, options))
}
