package telemetry

import (
	"errors"

	"go.opentelemetry.io/otel/metric"
)

// latencyBuckets are for the time from the write of an event to its acknowledgement, in
// seconds. They are finest around the usual tens of milliseconds. The coarse ones only
// distinguish the delays of retries (seconds), of recoveries (minutes) and of outages (hours).
var latencyBuckets = []float64{.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120, 300, 1800, 7200}

// fillBuckets are for the number of events in a request, 1 to 10.
var fillBuckets = []float64{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}

// instruments count events as they happen. The exporter adds _total to the names of counters,
// and the unit to names of instruments that have one.
type instruments struct {
	published, failed, dead, requests, suspected, claimsLost, recoveries, databaseErrors, receiptsLost metric.Int64Counter

	fill    metric.Int64Histogram
	latency metric.Float64Histogram

	buildInfo, limit metric.Int64Gauge
}

func newInstruments(m metric.Meter) (i instruments, err error) {
	var problems []error
	counter := func(name, help string) metric.Int64Counter {
		c, err := m.Int64Counter(name, metric.WithDescription(help))
		problems = append(problems, err)
		return c
	}
	i.published = counter("outbox_events_published", "Events that their destination acknowledged.")
	i.failed = counter("outbox_events_failed", "Events that were refused or got no answer. An event counts each time it is sent.")
	i.dead = counter("outbox_events_dead_lettered", "Events that became dead letters.")
	i.requests = counter("outbox_requests", "Requests to destinations, by whether they were answered.")
	i.suspected = counter("outbox_duplicates_suspected",
		"Events that may be published twice, because an answer was lost after they may have been accepted.")
	i.claimsLost = counter("outbox_claims_lost", "Attempts whose lanes another claim had taken.")
	i.recoveries = counter("outbox_recoveries_begun", "Recoveries of topics whose destination was broken.")
	i.receiptsLost = counter("outbox_receipts_lost", "Receipts of published events that could not be written.")
	i.databaseErrors = counter("outbox_database_errors", "Statements and connections that PostgreSQL refused or did not answer.")

	i.fill, err = m.Int64Histogram("outbox_request_events", metric.WithDescription("Events in a request."),
		metric.WithExplicitBucketBoundaries(fillBuckets...))
	problems = append(problems, err)
	i.latency, err = m.Float64Histogram("outbox_publish_latency", metric.WithUnit("s"),
		metric.WithDescription("Time from the write of an event to its acknowledgement."),
		metric.WithExplicitBucketBoundaries(latencyBuckets...))
	problems = append(problems, err)
	i.limit, err = m.Int64Gauge("outbox_requests_limit",
		metric.WithDescription("Requests that this worker may have in flight to the destination of the topic, as of the last answer."))
	problems = append(problems, err)
	i.buildInfo, err = m.Int64Gauge("outbox_build_info", metric.WithDescription("1; the labels name this worker's version, revision and Go version."))
	problems = append(problems, err)
	return i, errors.Join(problems...)
}
