package workflows

import (
	"fmt"
	"strings"
)

// RecoveryID is the workflow id of a topic's recovery, so a topic has one recovery at a time.
// The id contains the task queue, so that relays can share a namespace.
//
// Temporal's SDK sends a workflow's id in a gRPC header, which accepts only printable ASCII,
// and a topic may have any character. So RecoveryID percent-encodes each byte of task queue and
// topic that is not a letter, a digit or one of "-._~": "größe" is "gr%C3%B6%C3%9Fe". Each
// slash is then a separator, and two recoveries never have the same id.
func RecoveryID(taskQueue, topic string) string { return inID("recovery", taskQueue) + encoded(topic) }

// EarlierRecoveryID is the id that earlier versions gave to the recovery of a topic. For most topics,
// it equals RecoveryID. It is ambiguous: topic "a/b" of task queue "q" and topic "b" of task queue
// "q/a" have the same EarlierRecoveryID.
func EarlierRecoveryID(taskQueue, topic string) string {
	return inEarlierID("recovery", taskQueue) + topic
}

// OperationIDPrefix is the prefix of the workflow ids of a topic's operations; the operation's
// number follows it. It contains the task queue, so that relays can share a namespace. Task queue
// and topic are encoded as in a RecoveryID.
func OperationIDPrefix(taskQueue, kind, topic string) string {
	return inID(kind, taskQueue) + encoded(topic) + "/"
}

// EarlierOperationIDPrefix is the prefix of these ids in earlier versions.
func EarlierOperationIDPrefix(taskQueue, kind, topic string) string {
	return inEarlierID(kind, taskQueue) + topic + "/"
}

func inID(kind, taskQueue string) string {
	if taskQueue == DefaultTaskQueue {
		return "outbox-" + kind + "/"
	}
	return "outbox-" + kind + "/" + encoded(taskQueue) + "/"
}

func inEarlierID(kind, taskQueue string) string {
	if taskQueue == DefaultTaskQueue {
		return "outbox-" + kind + "/"
	}
	return "outbox-" + kind + "/" + taskQueue + "/"
}

// encoded percent-encodes every byte that is not one of RFC 3986's unreserved characters.
func encoded(name string) string {
	const digits = "0123456789ABCDEF"
	var b strings.Builder
	for _, c := range []byte(name) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte("-._~", c) >= 0:
			b.WriteByte(c)
		default:
			b.WriteByte('%')
			b.WriteByte(digits[c>>4])
			b.WriteByte(digits[c&0xf])
		}
	}
	return b.String()
}

// IsID reports whether Temporal's SDK can address a workflow by this id: the SDK refuses every
// id that has other characters than printable ASCII.
func IsID(id string) bool {
	for _, c := range []byte(id) {
		if c < ' ' || c > '~' {
			return false
		}
	}
	return id != ""
}

// maxTaskQueue is the maximum length of a task queue in an id, in bytes. Temporal accepts ids
// of 1,000 bytes (limit.maxIDLength), and a topic of 256 bytes can take 768 of these.
const maxTaskQueue = 190

// CheckTaskQueue returns an error if Temporal would refuse the task queue, the schedule of that
// name, or the ids of its workflows.
func CheckTaskQueue(name string) error {
	switch {
	case !IsID(name):
		return fmt.Errorf("is %q: Temporal accepts only printable ASCII characters", name)
	case len(encoded(name)) > maxTaskQueue:
		return fmt.Errorf("has %d bytes, counting three for each character that is not a letter, a digit or one of -._~: the limit is %d", len(encoded(name)), maxTaskQueue)
	}
	return nil
}
