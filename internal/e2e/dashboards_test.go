package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"text/template"

	"github.com/goccy/go-yaml"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/stretchr/testify/require"
)

var docs = filepath.Join("..", "..", "docs")

func read(t *testing.T, path ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(append([]string{docs}, path...)...))
	require.NoError(t, err)
	return string(b)
}

// rule is an alert, with every field that the file may have.
type rule struct {
	Alert, Expr, For    string
	Labels, Annotations map[string]string
}

func rules(t *testing.T) (all []rule) {
	t.Helper()
	var file struct {
		Groups []struct {
			Name  string
			Rules []rule
		}
	}
	require.NoError(t, yaml.UnmarshalWithOptions([]byte(read(t, "dashboards", "alerts.yaml")), &file, yaml.Strict()))
	for _, g := range file.Groups {
		require.NotEmpty(t, g.Name)
		all = append(all, g.Rules...)
	}
	require.NotEmpty(t, all)
	return all
}

// panel is what the test looks at of a dashboard's panel.
type panel struct {
	ID          int
	Type, Title string
	Description string
	Datasource  struct{ UID string }
	GridPos     struct{ H, W, X, Y int }
	Targets     []struct {
		Expr       string
		Datasource struct{ UID string }
	}
}

func panels(t *testing.T) []panel {
	t.Helper()
	var dashboard struct {
		SchemaVersion int
		Panels        []panel
		Templating    struct{ List []struct{ Name, Type string } }
	}
	require.NoError(t, json.Unmarshal([]byte(read(t, "dashboards", "outbox-relay.json")), &dashboard))
	require.GreaterOrEqual(t, dashboard.SchemaVersion, 39)
	require.Equal(t, "datasource", dashboard.Templating.List[0].Type)
	return dashboard.Panels
}

// expressions are the queries of dashboard and alerts by where they are, with
// Grafana's variables replaced by what they may stand for.
func expressions(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, r := range rules(t) {
		all["alert "+r.Alert] = r.Expr
	}
	variables := strings.NewReplacer("$__rate_interval", "5m", "$__interval", "1m", "$topic", ".*")
	for _, p := range panels(t) {
		for i, target := range p.Targets {
			all[fmt.Sprintf("panel %q, query %d", p.Title, i+1)] = variables.Replace(target.Expr)
		}
	}
	return all
}

// selectors are the metrics that an expression reads. It fails where Prometheus
// would.
func selectors(t *testing.T, where, expr string) (all []*parser.VectorSelector) {
	t.Helper()
	parsed, err := parser.ParseExpr(expr)
	require.NoError(t, err, where)
	parser.Inspect(parsed, func(n parser.Node, _ []parser.Node) error {
		if s, ok := n.(*parser.VectorSelector); ok {
			all = append(all, s)
		}
		return nil
	})
	require.NotEmpty(t, all, where)
	return all
}

func TestAlerts_ParseAndHaveTheirRunbookEntries(t *testing.T) {
	t.Parallel()
	runbook := read(t, "runbook.md")
	headings := regexp.MustCompile(`(?m)^## (\S+)$`).FindAllStringSubmatch(runbook, -1)
	known := map[string]bool{}
	for _, h := range headings {
		known[h[1]] = true
	}
	functions := template.FuncMap{}
	for _, name := range []string{"humanize", "humanizeDuration"} { // those of Prometheus that are in use
		functions[name] = func(any) string { return "" }
	}
	for _, r := range rules(t) {
		selectors(t, r.Alert, r.Expr)
		_, err := parser.ParseExpr("up[" + r.For + "]")
		require.NoError(t, err, "%s: for", r.Alert)
		require.Contains(t, []string{"critical", "warning"}, r.Labels["severity"], r.Alert)
		for _, name := range []string{"summary", "description"} {
			require.NotEmpty(t, r.Annotations[name], r.Alert)
			// What Prometheus puts before an annotation that it expands.
			text := "{{$labels := .Labels}}{{$value := .Value}}" + r.Annotations[name]
			_, err := template.New(name).Funcs(functions).Parse(text)
			require.NoError(t, err, r.Alert)
		}
		require.True(t, known[r.Alert], "docs/runbook.md has no entry for %s", r.Alert)
		require.Equal(t, "https://github.com/temporal-outbox/relay/blob/main/docs/runbook.md#"+strings.ToLower(r.Alert), r.Annotations["runbook_url"])
		delete(known, r.Alert)
	}
	require.Empty(t, known, "entries of the runbook that no alert leads to")
}

func TestDashboard_IsWellFormed(t *testing.T) {
	t.Parallel()
	ids := map[int]bool{}
	taken := map[[2]int]string{}
	for _, p := range panels(t) {
		require.False(t, ids[p.ID], "two panels have the id %d", p.ID)
		ids[p.ID] = true
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			require.Less(t, x, 24, p.Title)
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				require.Empty(t, taken[[2]int{x, y}], "%s lies on another panel", p.Title)
				taken[[2]int{x, y}] = p.Title
			}
		}
		if p.Type == "row" {
			continue
		}
		require.NotEmpty(t, p.Description, p.Title)
		require.NotEmpty(t, p.Targets, p.Title)
		require.Equal(t, "${datasource}", p.Datasource.UID, p.Title)
		for _, target := range p.Targets {
			require.Equal(t, "${datasource}", target.Datasource.UID, p.Title)
		}
	}
}

// What an alert or a panel reads must be what a worker shows, and a label that it
// insists on must be on it: a mistake there is an alert that never fires.
func TestMetrics_ThatAnAlertOrAPanelReadsAreShownByAWorker(t *testing.T) {
	t.Parallel()
	m, _ := busy(t)
	for where, expr := range expressions(t) {
		for _, s := range selectors(t, where, expr) {
			var insists []string
			for _, l := range s.LabelMatchers {
				if l.Name != labels.MetricName && l.Type == labels.MatchEqual {
					insists = append(insists, l.Name+`="`+l.Value+`"`)
				}
			}
			require.True(t, m.has(s.Name, insists...), "%s reads %s%v, which no worker shows", where, s.Name, insists)
		}
	}

	documented := map[string]bool{}
	for _, row := range regexp.MustCompile("(?m)^\\| `(outbox_[a-z_]+)` \\|([^|]*)\\|").FindAllStringSubmatch(read(t, "metrics.md"), -1) {
		documented[row[1]] = true
		var with []string
		for _, l := range regexp.MustCompile("`([a-z_]+)`").FindAllStringSubmatch(row[2], -1) {
			with = append(with, l[1]+`="`)
		}
		shown := m.has(row[1], with...) || m.has(row[1]+"_bucket", with...)
		require.True(t, shown, "docs/metrics.md describes %s with %v, which no worker shows", row[1], with)
	}
	histogram := regexp.MustCompile(`_(bucket|sum|count)$`)
	for series := range m {
		name, _, _ := strings.Cut(series, "{")
		if strings.HasPrefix(name, "outbox_") && !documented[name] {
			require.True(t, documented[histogram.ReplaceAllString(name, "")], "docs/metrics.md does not describe %s", name)
		}
	}
}
