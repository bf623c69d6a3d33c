package layout

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// related are the words in the names of durations that other parts must keep as well.
var related = regexp.MustCompile(`(?i)(^|[^e])lease|stall|margin|patience|grace|heartbeat|handoverpause|recoverypause|requesttimeout|window|^stoptimeout|batchfor|batchlate|^timeout$|workerstoptimeout|(retry|recovery|database)(first|most)`)

// A second copy of such a duration would go on holding when the first is changed.
// A part may derive one from another, but no number of its own makes one.
func TestDurations_ThatMustRelateAreWrittenOnce(t *testing.T) {
	root := filepath.Join("..", "..")
	assigned := 0
	for _, dir := range []string{
		"activities", "workflows", "worker/service", "internal/postgres",
		"internal/publish", "internal/publish/awsapi", "internal/publish/destination", "internal/publish/sns", "internal/publish/sqs",
	} {
		entries, err := os.ReadDir(filepath.Join(root, dir))
		require.NoError(t, err)
		for _, e := range entries {
			if !strings.HasSuffix(e.Name(), ".go") || strings.HasSuffix(e.Name(), "_test.go") {
				continue
			}
			fileset := token.NewFileSet()
			file, err := parser.ParseFile(fileset, filepath.Join(root, dir, e.Name()), nil, parser.SkipObjectResolution)
			require.NoError(t, err)
			eachAssignment(file, func(name string, value ast.Expr) {
				if !related.MatchString(name) {
					return
				}
				assigned++
				if hasOwnDuration(value) {
					t.Errorf("%s: %s has a duration of its own: take it from internal/timing", fileset.Position(value.Pos()), name)
				}
			})
		}
	}
	require.Greater(t, assigned, 10, "the names of durations have changed, and this test sees none any more")
}

// eachAssignment calls f with each name in a file that is given a value: constants,
// variables, assignments, and fields of composite literals.
func eachAssignment(file *ast.File, f func(name string, value ast.Expr)) {
	pair := func(names, values []ast.Expr) {
		for i, value := range values {
			if len(names) != len(values) {
				return
			}
			switch n := names[i].(type) {
			case *ast.Ident:
				f(n.Name, value)
			case *ast.SelectorExpr:
				f(n.Sel.Name, value)
			}
		}
	}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.ValueSpec:
			names := make([]ast.Expr, len(n.Names))
			for i, name := range n.Names {
				names[i] = name
			}
			pair(names, n.Values)
		case *ast.AssignStmt:
			pair(n.Lhs, n.Rhs)
		case *ast.KeyValueExpr:
			pair([]ast.Expr{n.Key}, []ast.Expr{n.Value})
		}
		return true
	})
}

// hasOwnDuration reports whether an expression has a unit of package time in it.
func hasOwnDuration(value ast.Expr) (own bool) {
	ast.Inspect(value, func(n ast.Node) bool {
		if s, ok := n.(*ast.SelectorExpr); ok {
			x, isIdent := s.X.(*ast.Ident)
			switch s.Sel.Name {
			case "Millisecond", "Second", "Minute", "Hour":
				own = own || isIdent && x.Name == "time"
			}
		}
		return true
	})
	return own
}
