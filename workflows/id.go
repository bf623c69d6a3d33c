package workflows

import (
	"fmt"
	"strings"
)

// RecoveryID is the workflow id of a topic's recovery: one at a time. Relays with
// a task queue of their own do not meet in one namespace.
//
// Temporal's SDK sends a workflow's id in a header of gRPC, which takes printable ASCII
// only, and a topic may have any character. So each byte of task queue and topic that is
// not a letter, a digit or one of "-._~" is written as in an address: "größe" is
// "gr%C3%B6%C3%9Fe". A slash then only stands between them, and no two ids are the same.
func RecoveryID(taskQueue, topic string) string { return inID("recovery", taskQueue) + encoded(topic) }

// EarlierRecoveryID is the id that earlier versions gave to that recovery. It is
// RecoveryID for most topics, and the same for topic "a/b" of task queue "q" as for topic
// "b" of task queue "q/a".
func EarlierRecoveryID(taskQueue, topic string) string {
	return inEarlierID("recovery", taskQueue) + topic
}

// OperationIDPrefix is what the workflow ids of a topic's operations begin with; the
// operation's number follows. Relays with a task queue of their own do not meet in
// one namespace. Task queue and topic are written as in a RecoveryID.
func OperationIDPrefix(taskQueue, kind, topic string) string {
	return inID(kind, taskQueue) + encoded(topic) + "/"
}

// EarlierOperationIDPrefix is the prefix that earlier versions gave to them.
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

// encoded writes every byte in hexadecimal that is not one of RFC 3986's unreserved
// characters.
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

// IsID reports whether Temporal's SDK can ask for a workflow by this id: it refuses
// anything but printable ASCII.
func IsID(id string) bool {
	for _, c := range []byte(id) {
		if c < ' ' || c > '~' {
			return false
		}
	}
	return id != ""
}

// maxTaskQueue is how long a task queue may be in an id, in bytes. Temporal takes ids of
// 1,000 (limit.maxIDLength), and a topic of 256 bytes can take 768 of them.
const maxTaskQueue = 190

// CheckTaskQueue returns why Temporal would not take a task queue, a schedule of its name
// or the ids of its workflows, or nil.
func CheckTaskQueue(name string) error {
	switch {
	case !IsID(name):
		return fmt.Errorf("is %q: Temporal takes printable ASCII characters only", name)
	case len(encoded(name)) > maxTaskQueue:
		return fmt.Errorf("has %d bytes, counting three for each character that is not a letter, a digit or one of -._~: %d are the most", len(encoded(name)), maxTaskQueue)
	}
	return nil
}
