package service

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"math"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"

	"github.com/temporal-outbox/relay/activities"
	"github.com/temporal-outbox/relay/internal/publish"
)

// topic is a topic's entry in the file. A field's type says how it is read: see decode.
type topic struct {
	SNS  string `yaml:"sns" doc:"ARN of the SNS topic, or its name; the ARN needs neither sns:ListTopics nor a look-up; this or sqs"`
	SQS  string `yaml:"sqs" doc:"name or URL of the SQS queue; this or sns"`
	Fair bool   `yaml:"fair" doc:"on a standard queue, send the key as MessageGroupId, for fair queues" default:"false"`

	KeyRequests publish.KeyRequests `yaml:"keyRequests" doc:"events of a key in a request: single or [batched](delivery.md#several-events-of-a-key-in-a-request) (FIFO only)" default:"single"`

	Fill time.Duration `yaml:"fill" doc:"how long an event waits for others that [share its request](delivery.md#full-requests), in shared lanes; such as 30ms, at most 1s" default:"0"`

	OnPoison     activities.OnPoison `yaml:"onPoison" doc:"later events of a key that has a dead letter: continue publishes them, block makes them dead letters too (FIFO only)" default:"continue"`
	GiveUpAfter  time.Duration       `yaml:"giveUpAfter" doc:"how long an event is retried while its destination refuses it and accepts others; such as 90s, 15m, 2h or 1d" default:"1h"`
	MaxPerSecond float64             `yaml:"maxPerSecond" doc:"messages a second, over all workers; 0: no cap" default:"0"`
	Receipts     time.Duration       `yaml:"receipts" doc:"how long starter where shows the time and message id of a publication; such as 7d; 0: never" default:"0"`
}

const configHelp = `a YAML file such as

    topics:
      orders: {sns: orders-events}
      audit:  {sqs: audit}`

// readTopics reads the file that routes topics. Its error lists everything that is wrong, each
// with the line, the topic and the key.
func readTopics(path string) (map[string]topic, error) {
	if path == "" {
		return nil, errors.New("OUTBOX_CONFIG is not set: give it the path of " + configHelp)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("OUTBOX_CONFIG: %w: give it the path of %s", err, configHelp)
	}
	return parseTopics(path, text)
}

func parseTopics(path string, text []byte) (map[string]topic, error) {
	// Some editors begin a file with a byte order mark, which would become part of the first key.
	text = bytes.TrimPrefix(text, []byte("\ufeff"))
	// Two keys of one name are a problem among others, not the end of reading.
	file, err := parser.ParseBytes(text, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		line := 1
		if e, ok := errors.AsType[yaml.Error](err); ok && e.GetToken() != nil {
			line = e.GetToken().Position.Line
			err = errors.New(e.GetMessage())
		}
		return nil, fmt.Errorf("OUTBOX_CONFIG: %s:%d: %w: it is not YAML", path, line, err)
	}
	r := reader{
		utf8: utf8.Valid(text), topics: make(map[string]topic),
		anchors: make(map[string]*ast.AnchorNode), aliases: make(map[*ast.AliasNode]*ast.AnchorNode),
		within: make(map[ast.Node]bool), seen: make(map[ast.Node]bool),
	}
	r.read(file)
	if r.spent() {
		return nil, fmt.Errorf("OUTBOX_CONFIG: %s:%d: the aliases (*) up to here stand for more than %d keys: replace some of them by their keys", path, r.limit, maxTaken)
	}
	if len(r.problems) == 0 && len(r.topics) == 0 {
		return nil, fmt.Errorf("OUTBOX_CONFIG: %s names no topics: it must be %s", path, configHelp)
	}
	slices.SortStableFunc(r.problems, func(a, b problem) int { return cmp.Compare(a.line, b.line) })
	all := make([]error, len(r.problems))
	for i, p := range r.problems {
		all[i] = fmt.Errorf("OUTBOX_CONFIG: %s:%d: %w", path, p.line, p.err)
	}
	if r.more {
		all = append(all, fmt.Errorf("OUTBOX_CONFIG: %s has more mistakes: correct these first", path))
	}
	return r.topics, errors.Join(all...)
}

const (
	// maxTaken bounds the expansion of aliases, in keys and steps. A mapping that has a second
	// one twice, which has a third one twice, and so on, doubles with each step.
	maxTaken = 1_000_000
	// maxProblems is how many mistakes are named. One of an anchor counts for each alias of it.
	maxProblems = 200
)

// reader reads the file's tree and collects the mistakes.
type reader struct {
	utf8     bool // the parser replaces bytes that are not UTF-8 by U+FFFD
	topics   map[string]topic
	anchors  map[string]*ast.AnchorNode         // during the walk: those before the node that is visited
	unbound  []*ast.AliasNode                   // aliases that have no anchor before them
	aliases  map[*ast.AliasNode]*ast.AnchorNode // the anchor that each alias stands for
	within   map[ast.Node]bool                  // the mappings whose entries are being collected
	problems []problem
	more     bool // than maxProblems

	seen  map[ast.Node]bool // the mappings whose entries were collected before
	taken int               // what aliases stood for so far
	taker ast.Node          // the outermost value that a << takes over now, nil if there is none
	limit int               // the line at which taken was more than maxTaken
}

type problem struct {
	line int
	err  error
}

func (r *reader) note(line int, format string, args ...any) {
	if len(r.problems) == maxProblems {
		r.more = true
		return
	}
	r.problems = append(r.problems, problem{line, fmt.Errorf(format, args...)})
}

// take counts what an alias has n stand for.
func (r *reader) take(n ast.Node, keys int) {
	if r.spent() {
		return
	}
	if r.taken += keys; r.spent() {
		if r.taker != nil {
			n = r.taker
		}
		r.limit = lineOf(n)
	}
}

// spent says that aliases stand for too much. From then on they stand for nothing.
func (r *reader) spent() bool { return r.taken > maxTaken }

func (r *reader) read(file *ast.File) {
	var body ast.Node
	for _, doc := range file.Docs {
		switch _, directive := doc.Body.(*ast.DirectiveNode); {
		case doc.Body == nil || directive:
		case body != nil:
			r.note(lineOf(doc.Body), "a second YAML document begins here, and only the first would be read: put everything under one topics:, or remove the ---")
		default:
			body = doc.Body
		}
	}
	if body == nil {
		return
	}
	ast.Walk(r, body)
	for _, alias := range r.unbound {
		name := alias.Value.GetToken().Value
		if later := r.anchors[name]; later != nil {
			r.note(lineOf(alias), "*%s has no &%s before it: move the &%s of line %d to a place before it", name, name, name, lineOf(later))
			continue
		}
		r.note(lineOf(alias), "*%s has no &%s", name, name)
	}
	entries, _ := r.entries(body, "the file")
	for _, e := range entries {
		if e.key != "topics" {
			r.note(e.line, "%s is not a key of the file: %s", e.key, known(e.key, []string{"topics"}))
			continue
		}
		topics, _ := r.entries(e.value, "topics")
		for _, t := range topics {
			r.checkName(t)
			r.topics[t.key] = r.topic(t)
		}
	}
}

// Visit binds each alias to its anchor. Several anchors may have one name: an alias stands for
// the last one before it. The walk visits the nodes in the order of the text.
func (r *reader) Visit(n ast.Node) ast.Visitor {
	switch v := n.(type) {
	case *ast.AnchorNode:
		r.anchors[v.Name.GetToken().Value] = v
	case *ast.AliasNode:
		if anchor := r.anchors[v.Value.GetToken().Value]; anchor != nil {
			r.aliases[v] = anchor
		} else {
			r.unbound = append(r.unbound, v)
		}
	}
	return r
}

// maxTopic is the limit of the table's constraint event_topic_is_1_to_256_bytes.
const maxTopic = 256

// checkName notes why no event can have a topic's name. PostgreSQL stores only UTF-8 without NUL.
// Destination.Mistakes notes an empty name.
func (r *reader) checkName(t entry) {
	switch n := len(t.key); {
	case n > maxTopic:
		r.note(t.line, "topic %.40q… has a name of %d bytes: a name has at most %d bytes", t.key, n, maxTopic)
	case strings.Contains(t.key, "\x00"):
		r.note(t.line, "topic %q has NUL in its name: PostgreSQL cannot store it: remove it", t.key)
	case !utf8.ValidString(t.key) || !r.utf8 && strings.ContainsRune(t.key, utf8.RuneError):
		r.note(t.line, "topic %q has bytes in its name that are not UTF-8: save the file as UTF-8", t.key)
	}
}

// entry is a key of a mapping, with its value.
type entry struct {
	key   string
	line  int
	value ast.Node
}

// entries are the keys of a mapping, each once, with those that it takes over from others
// (<<). owner names the mapping. complete is false if keys are missing because a problem with
// them is noted.
func (r *reader) entries(n ast.Node, owner string) (all []entry, complete bool) {
	at := n
	n = r.resolve(n)
	var values []*ast.MappingValueNode
	switch m := n.(type) {
	case nil:
		return nil, false
	case *ast.NullNode:
		return nil, true
	case *ast.MappingNode:
		values = m.Values
	case *ast.MappingValueNode:
		values = []*ast.MappingValueNode{m}
	default:
		r.note(lineOf(at), "%s is %s: it must have keys and values, as in topics: {audit: {sqs: audit}}", owner, short(n))
		return nil, true
	}
	if r.within[n] {
		r.contained(at)
		return nil, false
	}
	if r.seen[n] { // so that this is by an alias
		r.take(at, 1+len(values))
	}
	r.seen[n] = true
	r.within[n] = true
	defer delete(r.within, n)
	complete = true
	var merged []entry
	first := make(map[string]int)
	for _, v := range values {
		if v.Key.IsMergeKey() {
			more, whole := r.merged(v.Value, owner)
			merged = append(merged, more...)
			complete = complete && whole
			continue
		}
		key, ok := r.key(v.Key, owner)
		if !ok {
			complete = false
			continue
		}
		e := entry{key: key, line: lineOf(v.Key), value: v.Value}
		if before, twice := first[e.key]; twice {
			r.note(e.line, "%s has %s twice, and before in line %d: remove one", owner, e.key, before)
			continue
		}
		first[e.key] = e.line
		all = append(all, e)
	}
	for _, e := range merged {
		if _, own := first[e.key]; !own {
			first[e.key] = e.line
			all = append(all, e)
		}
	}
	return all, complete
}

// key is the text of a key. A number keeps its text as it is written, as in 0x10 or 007: it names
// a topic, and the producer writes the same text. ok is false for a key that has no text, which is
// noted.
func (r *reader) key(n ast.Node, owner string) (text string, ok bool) {
	scalar := r.resolve(n)
	if scalar == nil {
		return "", false
	}
	line, tagged := lineOf(n), false
	for ; n != nil; n = r.inner(n) {
		tag, is := n.(*ast.TagNode)
		if is && tag.Start.Value != "!!str" {
			r.note(line, "%s: a key has the tag %s: remove the tag, a key is always a text", owner, tag.Start.Value)
			return "", false
		}
		tagged = tagged || is
	}
	if scalar.Type() == ast.NullType && !tagged {
		null := scalar.GetToken().Value
		r.note(line, "%s: a key is %s, which YAML reads as null: put it in quotes, as in %q", owner, null, null)
		return "", false
	}
	if text, ok = textOf(scalar); !ok {
		r.note(line, "%s: a key is %s: it must be a text", owner, short(scalar))
	}
	return text, ok
}

// merged are the entries that a << takes over.
func (r *reader) merged(n ast.Node, owner string) (all []entry, complete bool) {
	if r.taker == nil {
		r.taker = n
		defer func() { r.taker = nil }()
	}
	complete = true
	for _, from := range r.sources(n) {
		more, whole := r.entries(from, owner)
		r.take(from, len(more))
		all = append(all, more...)
		if complete = complete && whole; r.spent() {
			return nil, false
		}
	}
	return all, complete
}

// sources are the mappings that a << takes over: one or a list.
func (r *reader) sources(n ast.Node) []ast.Node {
	if list, ok := r.resolve(n).(*ast.SequenceNode); ok {
		return list.Values
	}
	return []ast.Node{n}
}

// resolve follows aliases, and leaves out anchors, tags and the ? of a key. It returns nil for
// an alias of nothing, which the walk noted, and of itself.
func (r *reader) resolve(n ast.Node) ast.Node {
	seen := make(map[ast.Node]bool)
	for at := n; ; {
		if _, alias := n.(*ast.AliasNode); alias {
			r.take(at, 1)
		}
		if r.spent() {
			return nil
		}
		next := r.inner(n)
		if next == nil {
			break
		}
		if seen[n] {
			r.contained(n)
			return nil
		}
		seen[n] = true
		n = next
	}
	if _, nothing := n.(*ast.AliasNode); nothing {
		return nil
	}
	return n
}

// inner is the node that an alias stands for, or that has an anchor, a tag or a ?. It is nil for
// any other node.
func (r *reader) inner(n ast.Node) ast.Node {
	switch v := n.(type) {
	case *ast.AnchorNode:
		return v.Value
	case *ast.TagNode:
		return v.Value
	case *ast.MappingKeyNode:
		return v.Value
	case *ast.AliasNode:
		if anchor := r.aliases[v]; anchor != nil {
			return anchor
		}
	}
	return nil
}

// contained notes, once for each alias, that it is a part of the value that it stands for. From
// then on the alias stands for nothing.
func (r *reader) contained(n ast.Node) {
	for ; n != nil; n = r.inner(n) {
		if alias, ok := n.(*ast.AliasNode); ok {
			name := alias.Value.GetToken().Value
			r.note(lineOf(alias), "*%s contains itself: remove it from the value of &%s", name, name)
			delete(r.aliases, alias)
			return
		}
	}
}

// topic reads one topic's entry.
func (r *reader) topic(of entry) (t topic) {
	owner := fmt.Sprintf("topic %.*q", maxTopic, of.key)
	fields := reflect.ValueOf(&t).Elem()
	names := keysOf(fields.Type())
	lines, unread := map[string]int{}, map[string]bool{}
	entries, complete := r.entries(of.value, owner)
	for _, e := range entries {
		lines[e.key] = e.line
		i := slices.Index(names, e.key)
		if i < 0 {
			r.note(e.line, "%s: %s is not a key of a topic: %s", owner, e.key, known(e.key, names))
			continue
		}
		value := r.resolve(e.value)
		if value == nil {
			unread[e.key] = true
			continue
		}
		if err := decode(value, fields.Field(i)); err != nil {
			unread[e.key] = true
			r.note(e.line, "%s: %s is %s: %w", owner, e.key, short(value), err)
		}
	}
	mistakes := t.mistakes()
	if complete && !unread["sns"] && !unread["sqs"] {
		mistakes = append(mistakes, t.destination().Mistakes(of.key)...)
	}
	for _, m := range mistakes {
		line := of.line
		if at, set := lines[m.Key]; set {
			line = at
		}
		r.note(line, "%s: %w", owner, m.Err)
	}
	return t
}

// keysOf are the names that the fields of a struct have in the file.
func keysOf(t reflect.Type) []string {
	names := make([]string, t.NumField())
	for i := range names {
		names[i] = t.Field(i).Tag.Get("yaml")
	}
	return names
}

// decode reads a value into a field. Its error says what the value must be.
func decode(n ast.Node, field reflect.Value) error {
	if n.Type() == ast.NullType {
		return nil
	}
	text, scalar := textOf(n)
	if d, ok := field.Addr().Interface().(*time.Duration); ok {
		var err error
		*d, err = parseDuration(text)
		return err
	}
	switch field.Kind() {
	case reflect.Bool:
		if !scalar || yaml.NodeToValue(n, field.Addr().Interface()) != nil {
			return errors.New("it must be true or false")
		}
	case reflect.Float64:
		if !scalar || yaml.NodeToValue(n, field.Addr().Interface()) != nil {
			return errors.New("it must be a number")
		}
	default:
		// A number is a name here: 012 stays 012, though as a number it is 10.
		if !scalar {
			return errors.New("it must be a text")
		}
		field.SetString(text)
	}
	return nil
}

// textOf is a scalar's text: that of a quoted or block scalar without its marks, and any other as
// it is written. It is false for a mapping or a list.
func textOf(n ast.Node) (string, bool) {
	switch v := n.(type) {
	case *ast.LiteralNode:
		return v.Value.Value, true
	case *ast.StringNode:
		return v.Value, true
	case ast.ScalarNode:
		return v.GetToken().Value, true
	}
	return "", false
}

var days = regexp.MustCompile(`^([+-]?)([0-9]+(?:\.[0-9]+)?)d(.*)$`)

// parseDuration is time.ParseDuration with days, each of 24 hours: 7d, 1d12h.
func parseDuration(text string) (time.Duration, error) {
	wrong := errors.New("it must be a duration such as 90s, 15m, 2h, 1d or 1d12h")
	m := days.FindStringSubmatch(text)
	if m == nil {
		d, err := time.ParseDuration(text)
		if err != nil {
			return 0, wrong
		}
		return d, nil
	}
	n, err := strconv.ParseFloat(m[2], 64)
	rest := time.Duration(0)
	if m[3] != "" && err == nil {
		rest, err = time.ParseDuration(m[3])
	}
	if err != nil || rest < 0 || strings.HasPrefix(m[3], "+") || n*24*float64(time.Hour)+float64(rest) >= math.MaxInt64 {
		return 0, wrong
	}
	d := time.Duration(n*24*float64(time.Hour)) + rest
	if m[1] == "-" {
		d = -d
	}
	return d, nil
}

func (t topic) destination() publish.Destination {
	return publish.Destination{SNS: t.SNS, SQS: t.SQS, Fair: t.Fair, KeyRequests: t.KeyRequests, Fill: t.Fill}
}

// mistakes are those that a destination does not know of.
func (t topic) mistakes() (all []publish.Mistake) {
	note := func(key, format string, args ...any) {
		all = append(all, publish.Mistake{Key: key, Err: fmt.Errorf(format, args...)})
	}
	switch t.OnPoison {
	case "", activities.Continue:
	case activities.BlockKey:
		if !t.destination().Ordered() {
			note("onPoison", "onPoison is block, but the destination keeps no order: use a FIFO destination, or remove onPoison")
		}
		if t.KeyRequests == publish.BatchedKeys {
			note("onPoison", "onPoison is block, but with keyRequests: batched, later events of a key may arrive before a refused one: remove one of the two")
		}
	default:
		note("onPoison", "onPoison is %q: it must be continue or block", t.OnPoison)
	}
	if t.GiveUpAfter < 0 {
		note("giveUpAfter", "giveUpAfter is %s: it cannot be negative", t.GiveUpAfter)
	}
	if t.Receipts < 0 {
		note("receipts", "receipts is %s: it cannot be negative", t.Receipts)
	}
	if !(t.MaxPerSecond >= 0 && t.MaxPerSecond <= math.MaxFloat64) {
		note("maxPerSecond", "maxPerSecond is %g: it must be a number that is not negative", t.MaxPerSecond)
	}
	return all
}

func lineOf(n ast.Node) int {
	if n == nil || n.GetToken() == nil {
		return 1
	}
	return n.GetToken().Position.Line
}

// short is a value as people recognise it.
func short(n ast.Node) string {
	switch n.Type() {
	case ast.MappingType, ast.MappingValueType:
		return "a mapping"
	case ast.SequenceType:
		return "a list"
	case ast.NullType:
		return "nothing"
	}
	text, _ := textOf(n)
	return fmt.Sprintf("%.100q", text)
}

// known names the keys that there are, and the one that was probably meant.
func known(key string, names []string) string {
	text := "the keys are " + strings.Join(names, ", ")
	if near := nearest(key, names); near != "" {
		text = "did you mean " + near + "? " + text
	}
	return text
}
