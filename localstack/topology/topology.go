// Package topology creates the topics, queues and subscriptions of the local
// stack, on any endpoint that speaks SNS and SQS.
//
// They are described once, in topology.json: this package reads it for the
// everyday emulator and for tests, and the init hook of the LocalStack container
// (localstack/init) reads the very same file, so that the two cannot drift apart.
package topology

import (
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
)

//go:embed topology.json
var local []byte

const fifoSuffix = ".fifo"

// Topology is what should exist. FIFO topics and queues are those whose names
// end in ".fifo", as in AWS.
type Topology struct {
	Topics        []Topic        `json:"topics"`
	Queues        []Queue        `json:"queues"`
	Subscriptions []Subscription `json:"subscriptions"`
}

// Topic is an SNS topic.
type Topic struct {
	Name string `json:"name"`
	// Attributes are SNS's own, such as MaximumMessageSize.
	Attributes map[string]string `json:"attributes,omitempty"`
}

// Queue is an SQS queue.
type Queue struct {
	Name string `json:"name"`
	// Attributes are SQS's own, such as VisibilityTimeout. Redrive and access
	// policies follow from the rest of the topology.
	Attributes  map[string]string `json:"attributes,omitempty"`
	DeadLetters *DeadLetters      `json:"deadLetters,omitempty"`
}

// DeadLetters names the queue that takes messages which were received
// MaxReceives times and never deleted.
type DeadLetters struct {
	Queue       string `json:"queue"`
	MaxReceives int    `json:"maxReceives"`
}

// Subscription delivers a topic's messages to a queue.
type Subscription struct {
	Topic string `json:"topic"`
	Queue string `json:"queue"`
	// Raw delivers the body and attributes as published, without SNS's envelope.
	Raw bool `json:"raw,omitempty"`
	// Filter passes only messages whose attribute has one of the listed values.
	// The default passes all.
	Filter map[string][]string `json:"filter,omitempty"`
}

// Local is the topology that localstack/outbox.yaml publishes to.
func Local() Topology {
	t, err := Parse(local)
	if err != nil {
		panic("topology.json: " + err.Error()) // embedded: a test reads it
	}
	return t
}

// Parse reads a topology and reports everything that is wrong with it.
func Parse(data []byte) (Topology, error) {
	decoder := json.NewDecoder(strings.NewReader(string(data)))
	decoder.DisallowUnknownFields()
	var t Topology
	if err := decoder.Decode(&t); err != nil {
		return Topology{}, fmt.Errorf("parse topology: %w", err)
	}
	return t, t.validate()
}

// WithPrefix returns the same topology under other names, so that several can
// live on one endpoint.
func (t Topology) WithPrefix(prefix string) Topology {
	out := Topology{
		Topics:        slices.Clone(t.Topics),
		Queues:        slices.Clone(t.Queues),
		Subscriptions: slices.Clone(t.Subscriptions),
	}
	for i := range out.Topics {
		out.Topics[i].Name = prefix + out.Topics[i].Name
	}
	for i := range out.Queues {
		q := &out.Queues[i]
		q.Name = prefix + q.Name
		if q.DeadLetters != nil {
			q.DeadLetters = &DeadLetters{Queue: prefix + q.DeadLetters.Queue, MaxReceives: q.DeadLetters.MaxReceives}
		}
	}
	for i := range out.Subscriptions {
		out.Subscriptions[i].Topic = prefix + out.Subscriptions[i].Topic
		out.Subscriptions[i].Queue = prefix + out.Subscriptions[i].Queue
	}
	return out
}

func (t Topology) validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	topics, queues := map[string]bool{}, map[string]bool{}
	for _, topic := range t.Topics {
		if topic.Name == "" || topics[topic.Name] {
			bad("topic %q: name is empty or used twice", topic.Name)
		}
		topics[topic.Name] = true
	}
	for _, queue := range t.Queues {
		if queue.Name == "" || queues[queue.Name] {
			bad("queue %q: name is empty or used twice", queue.Name)
		}
		queues[queue.Name] = true
	}
	for _, queue := range t.Queues {
		if dead := queue.DeadLetters; dead != nil {
			switch {
			case !queues[dead.Queue]:
				bad("queue %q: its dead-letter queue %q is not described", queue.Name, dead.Queue)
			case fifo(dead.Queue) != fifo(queue.Name):
				bad("queue %q: a dead-letter queue must be FIFO exactly if its source is", queue.Name)
			case dead.MaxReceives < 1:
				bad("queue %q: maxReceives must be at least 1", queue.Name)
			}
		}
	}
	for _, s := range t.Subscriptions {
		switch {
		case !topics[s.Topic] || !queues[s.Queue]:
			bad("subscription %s to %s: topic or queue is not described", s.Queue, s.Topic)
		case fifo(s.Queue) && !fifo(s.Topic):
			bad("subscription %s to %s: a FIFO queue needs a FIFO topic", s.Queue, s.Topic)
		}
	}
	return errors.Join(errs...)
}

func fifo(name string) bool { return strings.HasSuffix(name, fifoSuffix) }
