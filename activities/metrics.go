package activities

import (
	"errors"
	"time"

	"github.com/temporal-outbox/relay/internal/relay"
)

// Metrics counts events, requests and samples. internal/telemetry implements it. No method may
// block. Each is called at most once for a request or a page, so that counting does not slow down
// the publishing.
type Metrics interface {
	// Answered is told of every request that is over.
	Answered(topic string, a relay.Answer)
	// Reported gets the outcomes of events, and the latencies of the accepted ones since their
	// writing. An event that is sent again has another outcome. Neither slice may be kept.
	Reported(topic string, outcomes []relay.Outcome, latencies []time.Duration)
	// DeadLettered gets events that were moved to the dead letters.
	DeadLettered(topic string, dead []relay.Outcome)
	// ClaimLost says that an attempt found its lanes in other hands.
	ClaimLost(topic string)
	// ReceiptsLost says that so many receipts could not be written.
	ReceiptsLost(topic string, n int)
	// RecoveryBegun says that a recovery made its first attempt.
	RecoveryBegun(topic string)
	// Topics gets a sample of all topics, about every ten seconds while this worker
	// has claims. The slice may not be kept.
	Topics(topics []relay.TopicState)
	// Health gets the state of the database as the hourly maintenance found it.
	Health(h relay.Health)
}

// noMetrics is the default.
type noMetrics struct{}

func (noMetrics) Answered(string, relay.Answer)                     {}
func (noMetrics) Reported(string, []relay.Outcome, []time.Duration) {}
func (noMetrics) DeadLettered(string, []relay.Outcome)              {}
func (noMetrics) ClaimLost(string)                                  {}
func (noMetrics) ReceiptsLost(string, int)                          {}
func (noMetrics) RecoveryBegun(string)                              {}
func (noMetrics) Topics([]relay.TopicState)                         {}
func (noMetrics) Health(relay.Health)                               {}

func (a *Activities) countLostClaim(topic string, err error) {
	if errors.Is(err, relay.ErrClaimLost) {
		a.cfg.Metrics.ClaimLost(topic)
	}
}
