package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"github.com/caarlos0/env/v11"
	"github.com/goccy/go-yaml"

	"github.com/temporal-outbox/relay/internal/publish"
)

// settings is the worker's environment. Temporal's own variables and AWS's are
// read by their libraries.
type settings struct {
	DatabaseURL string     `env:"DATABASE_URL"`
	Config      string     `env:"OUTBOX_CONFIG"`
	TaskQueue   string     `env:"OUTBOX_TASK_QUEUE" envDefault:"outbox-relay"`
	Connections int32      `env:"OUTBOX_DATABASE_CONNECTIONS" envDefault:"16"`
	HTTPAddress string     `env:"OUTBOX_HTTP_ADDRESS"`
	LogFormat   string     `env:"OUTBOX_LOG_FORMAT" envDefault:"text"`
	LogLevel    slog.Level `env:"OUTBOX_LOG_LEVEL" envDefault:"info"`
	Deployment  string     `env:"TEMPORAL_DEPLOYMENT_NAME"`
	BuildID     string     `env:"TEMPORAL_WORKER_BUILD_ID"`

	topics map[string]publish.Destination
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
	topics, err := readTopics(s.Config)
	if err != nil {
		problems = append(problems, err)
	}
	s.topics = topics
	return s, errors.Join(problems...)
}

// route is a topic's entry in the file.
type route struct {
	SNS  string `yaml:"sns"`
	SQS  string `yaml:"sqs"`
	Fair bool   `yaml:"fair"`
}

const configHelp = `a YAML file such as

    topics:
      orders: {sns: orders-events}
      audit:  {sqs: audit}`

func readTopics(path string) (map[string]publish.Destination, error) {
	if path == "" {
		return nil, errors.New("OUTBOX_CONFIG is not set: give it the path of " + configHelp)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("OUTBOX_CONFIG: %w: give it the path of %s", err, configHelp)
	}
	var file struct {
		Topics map[string]route `yaml:"topics"`
	}
	if err := yaml.UnmarshalWithOptions(text, &file, yaml.Strict()); err != nil {
		return nil, fmt.Errorf("OUTBOX_CONFIG: %s: %s", path, strings.TrimSpace(yaml.FormatError(err, false, true)))
	}
	if len(file.Topics) == 0 {
		return nil, fmt.Errorf("OUTBOX_CONFIG: %s names no topics: it must be %s", path, configHelp)
	}
	topics := make(map[string]publish.Destination, len(file.Topics))
	for name, r := range file.Topics {
		topics[name] = publish.Destination(r)
	}
	return topics, nil
}

func newLogger(s settings) *slog.Logger {
	options := &slog.HandlerOptions{Level: s.LogLevel}
	if s.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(os.Stderr, options))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, options))
}
