package service

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/caarlos0/env/v11"
	"github.com/goccy/go-yaml"

	"github.com/temporal-outbox/relay/activities"
	"github.com/temporal-outbox/relay/internal/publish"
)

// settings is the worker's environment. Temporal's own variables and AWS's are
// read by their libraries.
type settings struct {
	DatabaseURL string     `env:"DATABASE_URL" doc:"PostgreSQL database that has the outbox" required:"yes"`
	Auth        string     `env:"OUTBOX_DATABASE_AUTH" envDefault:"password" doc:"password: that of DATABASE_URL; iam: IAM database authentication of RDS and Aurora, a token for each connection"`
	Config      string     `env:"OUTBOX_CONFIG" doc:"path of the file that routes topics" required:"yes"`
	TaskQueue   string     `env:"OUTBOX_TASK_QUEUE" envDefault:"outbox-relay" doc:"Temporal task queue, and the name of the schedule: one for each outbox in a namespace"`
	Connections int32      `env:"OUTBOX_DATABASE_CONNECTIONS" envDefault:"16" doc:"size of the connection pool, at least 2"`
	HTTPAddress string     `env:"OUTBOX_HTTP_ADDRESS" doc:"where to serve /healthz, /readyz and /metrics, such as :8080; nowhere if it is not set"`
	LogFormat   string     `env:"OUTBOX_LOG_FORMAT" envDefault:"text" doc:"text or json"`
	LogLevel    slog.Level `env:"OUTBOX_LOG_LEVEL" envDefault:"info" doc:"debug, info, warn or error"`
	Deployment  string     `env:"TEMPORAL_DEPLOYMENT_NAME" doc:"with TEMPORAL_WORKER_BUILD_ID: run as a version of this Worker Deployment"`
	BuildID     string     `env:"TEMPORAL_WORKER_BUILD_ID" doc:"that version; starter promote makes it current"`

	topics   map[string]publish.Destination
	policies map[string]activities.TopicPolicy
}

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
	}
	if s.Connections < 2 {
		problems = append(problems, fmt.Errorf("OUTBOX_DATABASE_CONNECTIONS is %d: it must be at least 2", s.Connections))
	}
	if s.LogFormat != "text" && s.LogFormat != "json" {
		problems = append(problems, fmt.Errorf("OUTBOX_LOG_FORMAT is %q: it must be text or json", s.LogFormat))
	}
	if (s.Deployment == "") != (s.BuildID == "") {
		problems = append(problems, errors.New("TEMPORAL_DEPLOYMENT_NAME and TEMPORAL_WORKER_BUILD_ID go together: set both for a versioned worker, or neither"))
	}
	var err error
	if s.topics, s.policies, err = readTopics(s.Config); err != nil {
		problems = append(problems, err)
	}
	return s, errors.Join(problems...)
}

// topic is a topic's entry in the file.
type topic struct {
	SNS  string `yaml:"sns" doc:"ARN of the SNS topic, or its name; the ARN needs neither sns:ListTopics nor a look-up; this or sqs"`
	SQS  string `yaml:"sqs" doc:"name or URL of the SQS queue; this or sns"`
	Fair bool   `yaml:"fair" doc:"on a standard queue, send the key as MessageGroupId, for fair queues" default:"false"`

	OnPoison     activities.OnPoison `yaml:"onPoison" doc:"what becomes of later events of a key that has a dead letter: continue publishes them, block lets them follow into the dead letters (FIFO only)" default:"continue"`
	GiveUpAfter  time.Duration       `yaml:"giveUpAfter" doc:"how long an event is retried that its destination refuses alone, while others get through" default:"1h"`
	MaxPerSecond float64             `yaml:"maxPerSecond" doc:"messages a second, over all workers; 0: no cap" default:"0"`
}

const configHelp = `a YAML file such as

    topics:
      orders: {sns: orders-events}
      audit:  {sqs: audit}`

func readTopics(path string) (map[string]publish.Destination, map[string]activities.TopicPolicy, error) {
	if path == "" {
		return nil, nil, errors.New("OUTBOX_CONFIG is not set: give it the path of " + configHelp)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, fmt.Errorf("OUTBOX_CONFIG: %w: give it the path of %s", err, configHelp)
	}
	var file struct {
		Topics map[string]topic `yaml:"topics"`
	}
	if err := yaml.UnmarshalWithOptions(text, &file, yaml.Strict()); err != nil {
		return nil, nil, fmt.Errorf("OUTBOX_CONFIG: %s: %s", path, strings.TrimSpace(yaml.FormatError(err, false, true)))
	}
	if len(file.Topics) == 0 {
		return nil, nil, fmt.Errorf("OUTBOX_CONFIG: %s names no topics: it must be %s", path, configHelp)
	}
	topics := make(map[string]publish.Destination, len(file.Topics))
	policies := make(map[string]activities.TopicPolicy, len(file.Topics))
	var problems []error
	for _, name := range slices.Sorted(maps.Keys(file.Topics)) {
		t := file.Topics[name]
		topics[name] = publish.Destination{SNS: t.SNS, SQS: t.SQS, Fair: t.Fair}
		policies[name] = activities.TopicPolicy{OnPoison: t.OnPoison, GiveUpAfter: t.GiveUpAfter, MaxPerSecond: t.MaxPerSecond}
		if err := t.check(); err != nil {
			problems = append(problems, fmt.Errorf("OUTBOX_CONFIG: topic %q: %w", name, err))
		}
	}
	return topics, policies, errors.Join(problems...)
}

// check looks at what publish.New does not know of.
func (t topic) check() error {
	var problems []error
	switch t.OnPoison {
	case "", activities.Continue:
	case activities.BlockKey:
		if !strings.HasSuffix(t.SNS+t.SQS, ".fifo") {
			problems = append(problems, errors.New("onPoison is block, but its destination keeps no order: give it a FIFO one, or remove onPoison"))
		}
	default:
		problems = append(problems, fmt.Errorf("onPoison is %q: it must be continue or block", t.OnPoison))
	}
	if t.GiveUpAfter < 0 {
		problems = append(problems, fmt.Errorf("giveUpAfter is %s: it cannot be negative", t.GiveUpAfter))
	}
	if t.MaxPerSecond < 0 {
		problems = append(problems, fmt.Errorf("maxPerSecond is %g: it cannot be negative", t.MaxPerSecond))
	}
	return errors.Join(problems...)
}

func newLogger(s settings) *slog.Logger {
	options := &slog.HandlerOptions{Level: s.LogLevel}
	if s.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(os.Stderr, options))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, options))
}
