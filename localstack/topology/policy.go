package topology

import (
	"encoding/json"
	"maps"
	"reflect"
)

// redrivePolicy sends messages to the queue deadARN after maxReceives receives.
func redrivePolicy(deadARN string, maxReceives int) string {
	return encode(map[string]any{"deadLetterTargetArn": deadARN, "maxReceiveCount": maxReceives})
}

// accessPolicy lets SNS send to a queue on behalf of these topics and no others.
// Emulators deliver without one; AWS drops the messages.
func accessPolicy(queueARN string, topicARNs []string) string {
	return encode(map[string]any{
		"Version": "2012-10-17",
		"Statement": []any{map[string]any{
			"Effect":    "Allow",
			"Principal": map[string]string{"Service": "sns.amazonaws.com"},
			"Action":    "sqs:SendMessage",
			"Resource":  queueARN,
			"Condition": map[string]any{"ArnEquals": map[string]any{"aws:SourceArn": topicARNs}},
		}},
	})
}

// same compares attribute values. Policies come back with other spacing and key
// order, and numbers in them may come back as strings.
func same(a, b string) bool {
	if a == b {
		return true
	}
	var x, y map[string]any
	if json.Unmarshal([]byte(a), &x) != nil || json.Unmarshal([]byte(b), &y) != nil {
		return false
	}
	return reflect.DeepEqual(normal(x), normal(y))
}

func normal(value any) any {
	switch v := value.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for key, item := range v {
			out[key] = normal(item)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, item := range v {
			out[i] = normal(item)
		}
		return out
	case string:
		return v
	default:
		return encode(v)
	}
}

func with(attributes map[string]string, name, value string) map[string]string {
	out := maps.Clone(attributes)
	if out == nil {
		out = map[string]string{}
	}
	out[name] = value
	return out
}
