package service

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestTopics_EverythingThatIsWrongIsNamedAtOnceWithLineTopicAndKey(t *testing.T) {
	_, err := parseTopics("o.yaml", []byte(`topics:
  a: {sqs: a, giveUpAfter: 1x}
  b:
    sqs: b
    onPoison: drop
    maxPersecond: 3
  c: {sns: "no space", fair: maybe}
  d: {}
  e: {sqs: e, sqs: f}
  f: {sqs: [f]}
  g: {sqs: "g g.fifo", fair: true}
  h: {sqs: h, maxPerSecond: many}
  i: 7
  d: {sqs: d}
  j: {sqs: j, giveUpAfter: 30}
  k: {sqs: k, receipts: -7d}
  fine: {sqs: fine}
more: 1
---
topics: {k: {sqs: k}}
`))
	require.Error(t, err)
	want := []string{
		`o.yaml:2: topic "a": giveUpAfter is "1x": it must be a duration such as 90s, 15m, 2h, 1d or 1d12h`,
		`o.yaml:5: topic "b": onPoison is "drop": it must be continue or block`,
		`o.yaml:6: topic "b": maxPersecond is no key of a topic: did you mean maxPerSecond? it knows sns, sqs, fair, onPoison, giveUpAfter, maxPerSecond`,
		`o.yaml:7: topic "c": fair is "maybe": it must be true or false`,
		`o.yaml:7: topic "c": SNS topic "no space": neither a topic's name nor an ARN`,
		`o.yaml:8: topic "d": has no destination: set sns to a topic's name or ARN, or sqs to a queue's name or URL`,
		`o.yaml:9: topic "e" has sqs twice, and before in line 9: remove one`,
		`o.yaml:10: topic "f": sqs is a list: it must be a text`,
		`o.yaml:11: topic "g": SQS queue "g g.fifo": neither a queue's name nor a URL`,
		`o.yaml:11: topic "g": SQS queue "g g.fifo" is FIFO, where the key is the group id anyway: remove fair`,
		`o.yaml:12: topic "h": maxPerSecond is "many": it must be a number`,
		`o.yaml:13: topic "i" is "7": it must have keys and values, as in topics: {audit: {sqs: audit}}`,
		`o.yaml:13: topic "i": has no destination`,
		`o.yaml:14: topics has d twice, and before in line 8: remove one`,
		`o.yaml:15: topic "j": giveUpAfter is "30": it must be a duration`,
		`o.yaml:16: topic "k": receipts is -168h0m0s: it cannot be negative`,
		`o.yaml:18: more is no key of the file: it knows topics`,
		`o.yaml:20: a second YAML document begins here`,
	}
	have := each(err)
	for i, problem := range have {
		if i < len(want) {
			require.Contains(t, problem.Error(), "OUTBOX_CONFIG: "+want[i])
		}
	}
	require.Len(t, have, len(want), err)
}

func TestTopics_AFileThatIsNoYAMLIsNamedWithItsLine(t *testing.T) {
	for text, want := range map[string]string{
		"topics:\n  o: {sqs: x.fifo": "o.yaml:2: could not find flow mapping end token '}': it is not YAML",
		"topics:\n\ta: b\n":          "o.yaml:2: ",
		"topics\n":                   `o.yaml:1: the file is "topics": it must have keys and values`,
		"# nothing\n":                "o.yaml names no topics",
		"":                           "o.yaml names no topics",
		"topics:\n":                  "o.yaml names no topics",
		"topics:\n  a: *b\n":         "o.yaml:2: *b stands for nothing",
		"topics:\n  a: &a *a\n":      "o.yaml:2: ",
	} {
		_, err := parseTopics("o.yaml", []byte(text))
		require.ErrorContains(t, err, want, text)
	}
}

func TestTopics_AreReadAsTheyAreWritten(t *testing.T) {
	topics, err := parseTopics("o.yaml", []byte(`%YAML 1.2
---
# Comments, anchors and merges are YAML.
topics:
  a: &a {sqs: a.fifo, onPoison: block, giveUpAfter: 1d12h, maxPerSecond: 300}
  b: *a
  c:
    <<: *a
    sqs: "c"
    onPoison: continue
  12: {sns: 34, fair: true}
  größe: {sqs: d, giveUpAfter: ~}
...
`))
	require.NoError(t, err)
	a := topic{SQS: "a.fifo", OnPoison: "block", GiveUpAfter: 36 * time.Hour, MaxPerSecond: 300}
	c := a
	c.SQS, c.OnPoison = "c", "continue"
	require.Equal(t, map[string]topic{"a": a, "b": a, "c": c, "12": {SNS: "34", Fair: true}, "größe": {SQS: "d"}}, topics)
}

func TestParseDuration_KnowsDays(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"1d": 24 * time.Hour, "7d": 7 * 24 * time.Hour, "1d12h": 36 * time.Hour, "0.5d": 12 * time.Hour,
		"-1d1h": -25 * time.Hour, "90s": 90 * time.Second, "1h30m": 90 * time.Minute, "0": 0, "-1h": -time.Hour,
	} {
		d, err := parseDuration(text)
		require.NoError(t, err, text)
		require.Equal(t, want, d, text)
	}
	for _, text := range []string{"", "1", "d", "1D", "1d1d", "1d-1h", "1d+1h", "1w", "h1d", "200000d", "1d " + strings.Repeat("9", 400) + "h"} {
		_, err := parseDuration(text)
		require.Error(t, err, text)
	}
}

func TestNearest_FindsTheNameThatWasMeant(t *testing.T) {
	names := []string{"orders", "audit", "shipments", "größe"}
	for word, want := range map[string]string{
		"order": "orders", "odrers": "orders", "Orders": "orders", "audits": "audit", "shipmnts": "shipments", "grösse": "größe",
		"invoices": "", "or": "", "": "", "border-patrol": "",
	} {
		require.Equal(t, want, nearest(word, names), word)
	}
}
