package workflows

import (
	"cmp"
	"errors"
	"slices"

	"go.temporal.io/sdk/temporal"

	"github.com/temporal-outbox/relay/activities"
)

// add adds the result of one batch. Topics is a sorted list and not a map, so that every client shows
// the topics in the same order.
func (r *RelayResult) add(topic string, batch activities.PublishResult) {
	r.Published += batch.Published
	r.Dead += batch.Dead
	r.Batches++
	t := r.of(topic)
	t.Published += batch.Published
	t.Dead += batch.Dead
	t.Batches++
}

// addSeat adds the events that a worker published in its shares.
func (r *RelayResult) addSeat(seat activities.PublishResult) {
	r.addTopics(seat.Topics)
	for _, t := range seat.Topics {
		seat.Published -= t.Published
	}
	r.Published += seat.Published // of the topics that it does not name
}

func (r *RelayResult) addTopics(published []activities.TopicCount) {
	for _, t := range published {
		r.Published += t.Published
		r.of(t.Topic).Published += t.Published
	}
}

// of returns the part of a topic. It is valid until the next call.
func (r *RelayResult) of(topic string) *TopicResult {
	i, found := r.find(topic)
	if !found {
		r.Topics = slices.Insert(r.Topics, i, TopicResult{Topic: topic})
	}
	return &r.Topics[i]
}

// find returns the index of a topic in Topics, or the index at which to insert it.
func (r *RelayResult) find(topic string) (i int, found bool) {
	return slices.BinarySearchFunc(r.Topics, topic, func(t TopicResult, name string) int {
		return cmp.Compare(t.Topic, name)
	})
}

func asApplicationError(err error, target **temporal.ApplicationError) bool {
	return errors.As(err, target)
}
