package e2e

import (
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/testenv"
)

// drainedTopic waits until nothing of a topic is pending.
func (o *outbox) drainedTopic(topic string, within time.Duration) {
	o.t.Helper()
	testenv.Eventually(o.t, within, func() error {
		if n := o.count(`SELECT count(*) FROM outbox.pending WHERE topic = '` + topic + `'`); n > 0 {
			return fmt.Errorf("%d events of %s are pending", n, topic)
		}
		return nil
	})
}

// Nobody answers: neither yes nor no, which is the hardest to wait for. The topic
// beside it has a rate to keep, over two workers, neither faster nor slower.
func TestRecovery_OfADestinationThatHangsLeavesItsNeighbourItsPace(t *testing.T) {
	const n, paced, rate = 1000, 2500, 50
	hanging, other := newQueue(t, testenv.Name(t)+"-a"), newQueue(t, testenv.Name(t)+"-b")
	o := newOutbox(t, "topics:\n  hanging: {sqs: "+hanging.name+"}\n"+
		"  paced: {sqs: "+other.name+", maxPerSecond: "+strconv.Itoa(rate)+"}\n")
	c := testenv.Temporal(t)
	aws := newAWSProxy(t)
	var nobody swallowed
	aws.answer(hanging.name, nobody.ServeHTTP)
	o.work("AWS_ENDPOINT_URL=" + aws.url)
	o.work("AWS_ENDPOINT_URL=" + aws.url)
	o.write("hanging", "h", n, 500)
	o.write("paced", "p", paced, 500)
	o.schedule()
	began := time.Now()
	testenv.Eventually(t, 90*time.Second, func() error {
		if o.recoveries(c) == 0 {
			return errNotYet
		}
		return nil
	})
	t.Logf("a recovery after %v", time.Since(began).Round(time.Millisecond))
	require.Equal(t, n, o.count(`SELECT count(*) FROM outbox.pending WHERE topic = 'hanging'`), "nothing was accepted")
	aws.answer(hanging.name, nil)
	require.False(t, o.ended(c, "hanging").Lost)
	o.drained(60 * time.Second)
	requireOnce(t, hanging.receive(n, 60*time.Second), "h", n)

	requests, longest := nobody.seen()
	t.Logf("%d requests hung, the longest %v", requests, longest.Round(time.Millisecond))
	require.Positive(t, requests)
	require.Less(t, longest, 16*time.Second, "the deadline of a request")

	messages := other.receive(paced, 60*time.Second)
	requireOnce(t, messages, "p", paced)
	most, gap, took := pace(t, messages, time.Second)
	t.Logf("%d paced events in %v, %d in the densest second, longest pause %v", paced, took, most, gap)
	// Each of the two workers may begin with a request that it had saved up.
	require.LessOrEqual(t, most, rate+2*10)
	require.Less(t, gap, 5*time.Second, "it waited for its neighbour")
	require.Less(t, took, 2*paced/rate*time.Second, "it is not half as fast as it may be")
}

func TestThrottling_OfATopicRepeatsNothingAndNoOtherTopicWaits(t *testing.T) {
	const n = 2000
	const soon = 8 * time.Second // before batches are late, and their slots free
	name := testenv.Name(t)
	queue, behind, sound := newQueue(t, name+"-a"), newQueue(t, name+"-b"), newQueue(t, name+"-c")
	topic := name + "-t"
	newTopic(t, topic, behind)
	o := newOutbox(t, "topics:\n  queue: {sqs: "+queue.name+"}\n  topic: {sns: "+topic+"}\n  sound: {sqs: "+sound.name+"}\n")
	aws := newAWSProxy(t)
	var bySQS, bySNS throttled
	aws.answer(queue.name, bySQS.ServeHTTP)
	aws.answer(topic, bySNS.ServeHTTP)
	o.work("AWS_ENDPOINT_URL=" + aws.url)
	o.schedule()
	o.write("queue", "queue", n, 200)
	o.write("topic", "topic", n, 200)
	// The first requests of the two are refused, and their batches tried again, before the third begins.
	// Then there are few: about one in a second to each.
	testenv.Eventually(t, soon, func() error {
		if q, t := bySQS.requests.Load(), bySNS.requests.Load(); q < 6 || t < 6 {
			return fmt.Errorf("%d and %d requests were throttled", q, t)
		}
		return nil
	})
	o.write("sound", "sound", n, 200)
	o.drainedTopic("sound", soon)
	requireOnce(t, sound.receive(n, 30*time.Second), "sound", n)
	require.Equal(t, 2*n, o.pending(), "the others are throttled")
	aws.answer(queue.name, nil)
	aws.answer(topic, nil)
	o.drained(60 * time.Second)
	t.Logf("%d requests to SQS and %d to SNS were throttled", bySQS.requests.Load(), bySNS.requests.Load())
	requireOnce(t, queue.receive(n, 30*time.Second), "queue", n)
	requireOnce(t, behind.receive(n, 30*time.Second), "topic", n)
	require.Zero(t, o.count(`SELECT count(*) FROM outbox.dead_letter`), "throttling is nobody's fault")
}

// pace is how many messages were sent in the window that has most of them, the
// longest time in which there was none, and the time from the first to the last.
func pace(t *testing.T, messages []types.Message, window time.Duration) (most int, gap, took time.Duration) {
	t.Helper()
	sent := make([]time.Duration, len(messages))
	for i, m := range messages {
		ms, err := strconv.ParseInt(m.Attributes[string(types.MessageSystemAttributeNameSentTimestamp)], 10, 64)
		require.NoError(t, err)
		sent[i] = time.Duration(ms) * time.Millisecond
	}
	slices.Sort(sent)
	first := 0
	for i, at := range sent {
		for at-sent[first] >= window {
			first++
		}
		most = max(most, i-first+1)
		if i > 0 {
			gap = max(gap, at-sent[i-1])
		}
	}
	return most, gap, sent[len(sent)-1] - sent[0]
}
