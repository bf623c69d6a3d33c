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
	i, found := r.find(topic)
	if !found {
		r.Topics = slices.Insert(r.Topics, i, TopicResult{Topic: topic})
	}
	r.Topics[i].Published += batch.Published
	r.Topics[i].Dead += batch.Dead
	r.Topics[i].Batches++
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
