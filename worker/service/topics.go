package service

import (
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

	OnPoison     activities.OnPoison `yaml:"onPoison" doc:"what becomes of later events of a key that has a dead letter: continue publishes them, block lets them follow into the dead letters (FIFO only)" default:"continue"`
	GiveUpAfter  time.Duration       `yaml:"giveUpAfter" doc:"how long an event is retried that its destination refuses alone, while others get through; such as 90s, 15m, 2h or 1d" default:"1h"`
	MaxPerSecond float64             `yaml:"maxPerSecond" doc:"messages a second, over all workers; 0: no cap" default:"0"`
	Receipts     time.Duration       `yaml:"receipts" doc:"how long starter where says when an event was published, and under which message id; such as 7d; 0: it does not" default:"0"`
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
	r := reader{path: path, topics: make(map[string]topic), anchors: make(map[string]ast.Node)}
	r.read(file)
	if len(r.problems) == 0 && len(r.topics) == 0 {
		return nil, fmt.Errorf("OUTBOX_CONFIG: %s names no topics: it must be %s", path, configHelp)
	}
	slices.SortStableFunc(r.problems, func(a, b problem) int { return cmp.Compare(a.line, b.line) })
	all := make([]error, len(r.problems))
	for i, p := range r.problems {
		all[i] = fmt.Errorf("OUTBOX_CONFIG: %s:%d: %w", path, p.line, p.err)
	}
	return r.topics, errors.Join(all...)
}

// reader reads the file's tree and collects what is wrong with it.
type reader struct {
	path     string
	topics   map[string]topic
	anchors  map[string]ast.Node
	problems []problem
}

type problem struct {
	line int
	err  error
}

func (r *reader) note(line int, format string, args ...any) {
	r.problems = append(r.problems, problem{line, fmt.Errorf(format, args...)})
}

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
	for _, e := range r.entries(body, "the file") {
		if e.key != "topics" {
			r.note(e.line, "%s is no key of the file: %s", e.key, known(e.key, []string{"topics"}))
			continue
		}
		for _, t := range r.entries(e.value, "topics") {
			r.topics[t.key] = r.topic(t)
		}
	}
}

// Visit notes the anchors.
func (r *reader) Visit(n ast.Node) ast.Visitor {
	if a, ok := n.(*ast.AnchorNode); ok {
		r.anchors[a.Name.GetToken().Value] = a.Value
	}
	return r
}

// entry is a key of a mapping, with its value.
type entry struct {
	key   string
	line  int
	value ast.Node
}

// entries are the keys of a mapping, each once, with those that it takes over from others
// (<<). owner names the mapping.
func (r *reader) entries(n ast.Node, owner string) (all []entry) {
	line := lineOf(n)
	n = r.resolve(n)
	var values []*ast.MappingValueNode
	switch m := n.(type) {
	case nil:
		return nil
	case *ast.NullNode:
		return nil
	case *ast.MappingNode:
		values = m.Values
	case *ast.MappingValueNode:
		values = []*ast.MappingValueNode{m}
	default:
		r.note(line, "%s is %s: it must have keys and values, as in topics: {audit: {sqs: audit}}", owner, short(n))
		return nil
	}
	var merged []entry
	first := make(map[string]int)
	for _, v := range values {
		if v.Key.IsMergeKey() {
			for _, from := range r.sources(v.Value) {
				merged = append(merged, r.entries(from, owner)...)
			}
			continue
		}
		e := entry{key: v.Key.GetToken().Value, line: lineOf(v.Key), value: v.Value}
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
	return all
}

// sources are the mappings that a << takes over: one or a list.
func (r *reader) sources(n ast.Node) []ast.Node {
	if list, ok := r.resolve(n).(*ast.SequenceNode); ok {
		return list.Values
	}
	return []ast.Node{n}
}

// resolve follows aliases, and leaves out anchors and tags. It returns nil for an alias of
// nothing, which it notes.
func (r *reader) resolve(n ast.Node) ast.Node {
	for range 100 { // aliases may lead in a circle
		switch v := n.(type) {
		case *ast.AnchorNode:
			n = v.Value
		case *ast.TagNode:
			n = v.Value
		case *ast.AliasNode:
			name := v.Value.GetToken().Value
			if n = r.anchors[name]; n == nil {
				r.note(lineOf(v), "*%s stands for nothing: there is no &%s", name, name)
				return nil
			}
		default:
			return n
		}
	}
	return nil
}

// topic reads one topic's entry.
func (r *reader) topic(of entry) (t topic) {
	owner := fmt.Sprintf("topic %q", of.key)
	fields := reflect.ValueOf(&t).Elem()
	names := keysOf(fields.Type())
	lines, unread := map[string]int{}, map[string]bool{}
	for _, e := range r.entries(of.value, owner) {
		lines[e.key] = e.line
		i := slices.Index(names, e.key)
		if i < 0 {
			r.note(e.line, "%s: %s is no key of a topic: %s", owner, e.key, known(e.key, names))
			continue
		}
		value := r.resolve(e.value)
		if value == nil {
			continue
		}
		if err := decode(value, fields.Field(i)); err != nil {
			unread[e.key] = true
			r.note(e.line, "%s: %s is %s: %w", owner, e.key, short(value), err)
		}
	}
	mistakes := t.mistakes()
	if !unread["sns"] && !unread["sqs"] {
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
	if d, ok := field.Addr().Interface().(*time.Duration); ok {
		if n.Type() == ast.NullType {
			return nil
		}
		var err error
		*d, err = parseDuration(n.GetToken().Value)
		return err
	}
	if err := yaml.NodeToValue(n, field.Addr().Interface()); err != nil {
		switch field.Kind() {
		case reflect.Bool:
			return errors.New("it must be true or false")
		case reflect.Float64:
			return errors.New("it must be a number")
		default:
			return errors.New("it must be a text")
		}
	}
	return nil
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
	return publish.Destination{SNS: t.SNS, SQS: t.SQS, Fair: t.Fair}
}

// mistakes are those that a destination does not know of.
func (t topic) mistakes() (all []publish.Mistake) {
	note := func(key, format string, args ...any) {
		all = append(all, publish.Mistake{Key: key, Err: fmt.Errorf(format, args...)})
	}
	switch t.OnPoison {
	case "", activities.Continue:
	case activities.BlockKey:
		if !strings.HasSuffix(t.SNS+t.SQS, ".fifo") {
			note("onPoison", "onPoison is block, but its destination keeps no order: give it a FIFO one, or remove onPoison")
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
	return fmt.Sprintf("%.100q", n.GetToken().Value)
}

// known names the keys that there are, and the one that was probably meant.
func known(key string, names []string) string {
	text := "it knows " + strings.Join(names, ", ")
	if near := nearest(key, names); near != "" {
		text = "did you mean " + near + "? " + text
	}
	return text
}
