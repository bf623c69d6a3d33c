package faults

import (
	"encoding/json"
	"encoding/xml"
	"fmt"
)

// failure is an entry of a batch answer's failed list.
type failure struct {
	ID          string `json:"Id" xml:"Id"`
	Code        string `json:"Code" xml:"Code"`
	Message     string `json:"Message" xml:"Message"`
	SenderFault bool   `json:"SenderFault" xml:"SenderFault"`
}

// rewrite returns which entries a batch answer accepts, and the answer as the
// relay is to see it.
func (q *request) rewrite(text []byte, f *fault) (accepted map[string]bool, changed []byte, err error) {
	if q.sqs {
		return q.rewriteSQS(text, f)
	}
	return q.rewriteSNS(text, f)
}

// refusals are what the proxy itself reports as failed, in the order of entries.
func (q *request) refusals(f *fault) (list []failure) {
	for _, e := range q.entries {
		switch f.failed[e.id] {
		case FailEntry:
			list = append(list, failure{ID: e.id, Code: "InternalError", Message: "the harness failed"})
		case ThrottleEntry:
			code := "Throttled"
			if q.sqs {
				code = "RequestThrottled"
			}
			list = append(list, failure{ID: e.id, Code: code, Message: "the harness says: slow down", SenderFault: true})
		case Poison:
			code := "InvalidParameter" // the only one that SNS has for it
			if q.sqs {
				code = "InvalidMessageContents"
			}
			list = append(list, failure{ID: e.id, Code: code, Message: "the harness refuses this entry", SenderFault: true})
		}
	}
	return list
}

func (q *request) rewriteSQS(text []byte, f *fault) (map[string]bool, []byte, error) {
	var answer struct {
		Successful []map[string]any
		Failed     []failure
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		return nil, nil, fmt.Errorf("read the answer: %w", err)
	}
	accepted := map[string]bool{}
	shown := []map[string]any{}
	for _, s := range answer.Successful {
		id, _ := s["Id"].(string)
		accepted[id] = true
		if !f.omitted[id] {
			shown = append(shown, s)
		}
	}
	answer.Successful = shown
	answer.Failed = append(answer.Failed, q.refusals(f)...)
	changed, err := json.Marshal(answer)
	return accepted, changed, err
}

// snsAnswer is SNS's answer to PublishBatch.
type snsAnswer struct {
	XMLName    xml.Name  `xml:"PublishBatchResponse"`
	Successful []success `xml:"PublishBatchResult>Successful>member"`
	Failed     []failure `xml:"PublishBatchResult>Failed>member"`
	RequestID  string    `xml:"ResponseMetadata>RequestId"`
}

type success struct {
	ID             string `xml:"Id"`
	MessageID      string `xml:"MessageId"`
	SequenceNumber string `xml:"SequenceNumber,omitempty"`
}

func (q *request) rewriteSNS(text []byte, f *fault) (map[string]bool, []byte, error) {
	var answer snsAnswer
	if err := xml.Unmarshal(text, &answer); err != nil { //nolint:gosec // from the emulator
		return nil, nil, fmt.Errorf("read the answer: %w", err)
	}
	accepted := map[string]bool{}
	var shown []success
	for _, s := range answer.Successful {
		accepted[s.ID] = true
		if !f.omitted[s.ID] {
			shown = append(shown, s)
		}
	}
	answer.Successful = shown
	answer.Failed = append(answer.Failed, q.refusals(f)...)
	answer.XMLName = xml.Name{Local: "PublishBatchResponse"}
	changed, err := xml.Marshal(answer)
	return accepted, changed, err
}
