package service

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/publish"
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
		`o.yaml:6: topic "b": maxPersecond is not a key of a topic: did you mean maxPerSecond? the keys are sns, sqs, fair, keyRequests, fill, onPoison, giveUpAfter, maxPerSecond`,
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
		`o.yaml:18: more is not a key of the file: the keys are topics`,
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
		"topics:\n  a: *b\n":         "o.yaml:2: *b has no &b",
		"topics:\n  a: &a *a\n":      "o.yaml:2: ",
	} {
		_, err := parseTopics("o.yaml", []byte(text))
		require.ErrorContains(t, err, want, text)
	}
}

func TestTopics_AnAliasStandsForTheLastAnchorBeforeIt(t *testing.T) {
	topics, err := parseTopics("o.yaml", []byte(`topics:
  a: &x {sqs: first}
  b: *x
  c: {<<: *x}
  d: &x {sqs: second}
  e: *x
  f: {<<: [*x], sqs: &q third}
  g: {sqs: *q}
  h: {sqs: &q fourth}
  i: {sqs: *q}
`))
	require.NoError(t, err)
	queues := make(map[string]string)
	for name, topic := range topics {
		queues[name] = topic.SQS
	}
	require.Equal(t, map[string]string{
		"a": "first", "b": "first", "c": "first", "d": "second", "e": "second", "f": "third", "g": "third", "h": "fourth", "i": "fourth",
	}, queues)
}

func TestTopics_AnAliasThatStandsForNothingIsNamedOnce(t *testing.T) {
	for text, want := range map[string][]string{
		"topics:\n  a: *x\n  b: &x {sqs: b}\n":                                  {"o.yaml:2: *x has no &x before it: move the &x of line 3 to a place before it"},
		"topics:\n  a: {<<: *x}\n  b: &x {sqs: b}\n":                            {"o.yaml:2: *x has no &x before it"},
		"topics:\n  a: {<<: *x}\n":                                              {"o.yaml:2: *x has no &x"},
		"topics:\n  a: {<<: [*x, *y]}\n":                                        {"o.yaml:2: *x has no &x", "o.yaml:2: *y has no &y"},
		"topics:\n  a: {sqs: *x}\n":                                             {"o.yaml:2: *x has no &x"},
		"topics:\n  a: &x {sqs: q, <<: *x}\n":                                   {"o.yaml:2: *x contains itself: remove it from the value of &x"},
		"topics:\n  a: &x\n    sqs: q\n    <<: [*x]\n":                          {"o.yaml:4: *x contains itself"},
		"topics:\n  a: &x {sqs: q, <<: {fair: true, <<: *x}}\n  b: *x\n":        {"o.yaml:2: *x contains itself"},
		"topics:\n  a: &x {sqs: q}\n  b: &x\n    <<: *x\n":                      {"o.yaml:4: *x contains itself"},
		"topics:\n  a: &x {sqs: *x}\n":                                          {`o.yaml:2: topic "a": sqs is a mapping: it must be a text`},
		"topics:\n  a: &x {sqs: {b: *x}}\n":                                     {`o.yaml:2: topic "a": sqs is a mapping: it must be a text`},
		"topics:\n  a: &x {sqs: q, fair: [*x]}\n":                               {`o.yaml:2: topic "a": fair is a list: it must be true or false`},
		"topics: &t\n  a: {sqs: q}\n  <<: *t\n":                                 {"o.yaml:3: *t contains itself"},
		"topics:\n  a: &x {sqs: q}\n  b: &y {<<: *x}\n  c: &x {<<: [*y, *x]}\n": {"o.yaml:4: *x contains itself"},
		"topics:\n  a: &x !!str *x\n":                                           {"o.yaml:2: *x contains itself"},
		"topics:\n  a: {sqs: &x !!str *x, <<: *x}\n":                            {"o.yaml:2: *x contains itself"},
		"topics:\n  a: {~: b}\n":                                                {`o.yaml:2: topic "a": a key is ~`},
	} {
		_, err := parseTopics("o.yaml", []byte(text))
		require.Error(t, err, text)
		have := each(err)
		require.Len(t, have, len(want), "%s%v", text, err)
		for i := range want {
			require.ErrorContains(t, have[i], want[i], text)
		}
	}
}

func TestTopics_ANameIsTheTextOfItsKeyHoweverYAMLSpellsIt(t *testing.T) {
	for key, want := range map[string]string{
		"&k a:": "a", "? a\n  :": "a", "? &k a\n  :": "a", "? &k !!str a\n  :": "a", "!!str &k a:": "a",
		"!!str 12:": "12", "!!str ~:": "~", `"~":`: "~", "12:": "12", "0x10:": "0x10", "007:": "007", "1.50:": "1.50", "true:": "true", ".inf:": ".inf",
		`"a\u00e9":`: "aé", "'it''s':": "it's", `"<<":`: "<<", "? >-\n    a\n    b\n  :": "a b", `"&":`: "&", `"\xff":`: "ÿ", "\ufffd:": "\ufffd",
		strings.Repeat("ü", 128) + ":": strings.Repeat("ü", 128),
	} {
		topics, err := parseTopics("o.yaml", []byte("topics:\n  "+key+" {sqs: q}\n"))
		require.NoError(t, err, key)
		require.Equal(t, map[string]topic{want: {SQS: "q"}}, topics, key)
	}
	topics, err := parseTopics("o.yaml", []byte("topics:\n  a: {sqs: &k b}\n  *k : {? sqs : q, &f fair: true}\n"))
	require.NoError(t, err)
	require.Equal(t, map[string]topic{"a": {SQS: "b"}, "b": {SQS: "q", Fair: true}}, topics)
}

func TestTopics_AKeyThatIsNoNameIsRefusedWithItsLine(t *testing.T) {
	for key, want := range map[string]string{
		"~:":                            `topics: a key is ~, which YAML reads as null: put it in quotes, as in "~"`,
		"null:":                         `topics: a key is null, which YAML reads as null: put it in quotes, as in "null"`,
		"!!binary YQ==:":                "topics: a key has the tag !!binary: remove the tag, a key is always a text",
		"!own a:":                       "topics: a key has the tag !own",
		"&x !!str *x :":                 "*x contains itself",
		"*nil :":                        "*nil has no &nil",
		"*m :":                          "topics: a key is a mapping: it must be a text",
		`"":`:                           "topic \"\": the topic's name is empty",
		"!!str :":                       "topic \"\": the topic's name is empty",
		`"a\0b":`:                       `topic "a\x00b" has NUL in its name`,
		"a\x00b:":                       `topic "a\x00b" has NUL in its name`,
		"a\xffb:":                       "topic \"a\ufffdb\" has bytes in its name that are not UTF-8: save the file as UTF-8",
		strings.Repeat("ü", 128) + "x:": "topic \"" + strings.Repeat("ü", 40) + "\"… has a name of 257 bytes: a name has at most 256 bytes",
	} {
		_, err := parseTopics("o.yaml", []byte("topics:\n  m: &m {sqs: m}\n  "+key+" {sqs: q}\n"))
		require.ErrorContains(t, err, "OUTBOX_CONFIG: o.yaml:3: "+want, key)
	}
}

func TestTopics_AByteOrderMarkIsNoPartOfTheFirstKey(t *testing.T) {
	topics, err := parseTopics("o.yaml", []byte("\ufefftopics: {a: {sqs: q}}\n"))
	require.NoError(t, err)
	require.Equal(t, map[string]topic{"a": {SQS: "q"}}, topics)
}

func TestTopics_AValueIsItsTextHoweverYAMLSpellsIt(t *testing.T) {
	for value, want := range map[string]topic{
		"sqs: >-\n      q\n": {SQS: "q"},
		"sqs: |-\n      q\n    giveUpAfter: >-\n      1d\n": {SQS: "q", GiveUpAfter: 24 * time.Hour},
		"sqs: 012":                   {SQS: "012"},
		"sqs: 0x10":                  {SQS: "0x10"},
		"sqs: !!str 1_0":             {SQS: "1_0"},
		"sqs: true":                  {SQS: "true"},
		"sqs: &q q\n    onPoison: ~": {SQS: "q"},
	} {
		topics, err := parseTopics("o.yaml", []byte("topics:\n  a:\n    "+value+"\n"))
		require.NoError(t, err, value)
		require.Equal(t, map[string]topic{"a": want}, topics, value)
	}
	_, err := parseTopics("o.yaml", []byte("topics:\n  a:\n    sqs: q\n    giveUpAfter: >-\n      1x\n"))
	require.ErrorContains(t, err, `o.yaml:4: topic "a": giveUpAfter is "1x"`)
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

// Each line of these multiplies or adds up what the line before it stands for.
func TestTopics_AliasesThatStandForTooMuchAreRefusedWithALine(t *testing.T) {
	nested := func(first, format string, lines int) string {
		var b strings.Builder
		b.WriteString(first)
		for i := 1; i < lines; i++ {
			fmt.Fprintf(&b, format, i, i-1)
		}
		return b.String()
	}
	var keys strings.Builder
	for i := range 2000 {
		fmt.Fprintf(&keys, "    k%d: 1\n", i)
	}
	for name, text := range map[string]string{
		"merges of lists":         nested("topics:\n  a0: &a0 {sqs: q}\n", "  a%d: &a%[1]d {<<: [*a%[2]d, *a%[2]d, *a%[2]d, *a%[2]d, *a%[2]d]}\n", 30),
		"merges of one":           nested("topics:\n  a0: &a0 {sqs: q}\n", "  a%d: &a%[1]d\n    <<: *a%[2]d\n    <<: *a%[2]d\n", 60),
		"merged mistakes":         nested("topics:\n  a0: &a0 {no: 1, no: 2}\n", "  a%d: &a%[1]d {<<: [*a%[2]d, *a%[2]d, *a%[2]d, *a%[2]d, *a%[2]d]}\n", 30),
		"merged nothing":          nested("topics:\n  a0: &a0 {}\n", "  a%d: &a%[1]d {<<: [*a%[2]d, *a%[2]d, *a%[2]d, *a%[2]d, *a%[2]d]}\n", 30),
		"a merge of all":          nested("topics:\n  a0: &a0 {sqs: q}\n", "  a%d: &a%[1]d {<<: *a%[2]d}\n", 5000),
		"aliases of aliases":      nested("topics:\n  a0: &a0 {sqs: q}\n", "  a%d: &a%[1]d !!str *a%[2]d\n", 5000),
		"many keys, merged often": "topics:\n  a: &a\n" + keys.String() + "  b:\n    <<: [" + strings.Repeat("*a, ", 2000) + "]\n",
	} {
		t.Run(name, func(t *testing.T) {
			_, err := parseTopics("o.yaml", []byte(text))
			require.Error(t, err)
			have := each(err)
			require.Len(t, have, 1)
			require.Regexp(t, `^OUTBOX_CONFIG: o\.yaml:\d+: the aliases \(\*\) up to here stand for more than 1000000 keys: `, have[0].Error())
		})
	}
}

func TestTopics_ManyThatShareTheirSettingsAreRead(t *testing.T) {
	var b strings.Builder
	b.WriteString("topics:\n  base: &base {sqs: q, maxPerSecond: 3}\n  more: &more {<<: *base, receipts: 7d}\n")
	for i := range 2000 {
		fmt.Fprintf(&b, "  topic-%d: {<<: *more, giveUpAfter: 2h}\n", i)
	}
	topics, err := parseTopics("o.yaml", []byte(b.String()))
	require.NoError(t, err)
	require.Len(t, topics, 2002)
	require.Equal(t, topic{SQS: "q", MaxPerSecond: 3, Receipts: 7 * 24 * time.Hour, GiveUpAfter: 2 * time.Hour}, topics["topic-1999"])
}

func TestTopics_OfMoreMistakesThanAnyoneReadsTheFirstAreNamed(t *testing.T) {
	var b strings.Builder
	b.WriteString("topics:\n")
	for i := range 3 * maxProblems {
		fmt.Fprintf(&b, "  t%d: 7\n", i)
	}
	_, err := parseTopics("o.yaml", []byte(b.String()))
	have := each(err)
	require.Len(t, have, maxProblems+1)
	require.EqualError(t, have[maxProblems], "OUTBOX_CONFIG: o.yaml has more mistakes: correct these first")
}

func TestTopics_FillIsAtMostASecond(t *testing.T) {
	for _, fill := range []string{"2s", "-1ms"} {
		_, err := parseTopics("o.yaml", []byte("topics:\n  a: {sqs: a, fill: "+fill+"}\n"))
		require.ErrorContains(t, err, "fill is "+fill+": it must be from 0s to 1s")
	}
	topics, err := parseTopics("o.yaml", []byte("topics:\n  a: {sqs: a, fill: 30ms}\n"))
	require.NoError(t, err)
	require.Equal(t, 30*time.Millisecond, topics["a"].destination().Fill)
}

func TestTopics_BatchedKeysAndABlockedKeyExcludeEachOther(t *testing.T) {
	_, err := parseTopics("o.yaml", []byte("topics:\n  a: {sqs: a.fifo, keyRequests: batched, onPoison: block}\n"))
	require.ErrorContains(t, err, "remove one of the two")
	_, err = parseTopics("o.yaml", []byte("topics:\n  a: {sqs: a, keyRequests: batched}\n"))
	require.ErrorContains(t, err, "keyRequests is batched, but the destination keeps no order")
	topics, err := parseTopics("o.yaml", []byte("topics:\n  a: {sqs: a.fifo, keyRequests: batched}\n"))
	require.NoError(t, err)
	require.Equal(t, publish.BatchedKeys, topics["a"].destination().KeyRequests)
}
