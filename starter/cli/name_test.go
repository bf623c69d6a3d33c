package cli

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/liveness"
	"github.com/temporal-outbox/relay/internal/program"
)

func TestMain_NamesCommandsByTheNameOfItsBinary(t *testing.T) {
	args, errs := os.Args, os.Stderr
	defer func() { os.Args, os.Stderr = args, errs; program.StarterIs("starter") }()
	r, w, err := os.Pipe()
	require.NoError(t, err)
	os.Args, os.Stderr = []string{"outbox", "dead", "list", "--code", "AccessDenied"}, w
	require.Equal(t, exitUsage, Main("outbox"))
	require.NoError(t, w.Close())
	said, err := io.ReadAll(r)
	require.NoError(t, err)
	require.Equal(t, "outbox: a filter needs a topic: outbox dead list TOPIC\n", string(said))

	require.Equal(t, []string{`there is no schedule q, so no run of Relay is started, and publishing ends a minute after the last run at the latest: run "outbox schedule --task-queue q"`},
		liveness.State{TaskQueue: "q", Schedule: liveness.Schedule{ID: "q", Status: liveness.Absent}}.Problems()[:1])
	require.Contains(t, scheduleResult{Schedule: "q", Off: true}.String(), "outbox schedule --maintain-every 1h turns it on")
}

func TestHelp_NamesCommandsByTheNameOfItsBinary(t *testing.T) {
	var look func(cmd *cobra.Command)
	look = func(cmd *cobra.Command) {
		require.NotContains(t, cmd.Long+cmd.Example+cmd.UsageString(), "starter", cmd.CommandPath())
		for _, sub := range cmd.Commands() {
			look(sub)
		}
	}
	look(root("outbox"))
}

// Help is renamed as a whole. Every other text that a command prints asks package program.
func TestTexts_NameNoCommandOfTheStarterByAFixedName(t *testing.T) {
	fixed := regexp.MustCompile(`\bstarter(:|$| (migrate|schedule|promote|status|where|dead|replay|pause|resume|recover)\b)`)
	for _, dir := range []string{".", "../../internal/postgres", "../../internal/liveness", "../../internal/rdsauth", "../../schema"} {
		files, err := filepath.Glob(filepath.Join(dir, "*.go"))
		require.NoError(t, err)
		require.NotEmpty(t, files)
		for _, name := range files {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
			require.NoError(t, err)
			ast.Inspect(file, func(n ast.Node) bool {
				switch v := n.(type) {
				case *ast.KeyValueExpr:
					key, ok := v.Key.(*ast.Ident)
					return !ok || key.Name != "Long" && key.Name != "Example"
				case *ast.ValueSpec:
					return v.Names[0].Name != "OffNote" // it is stored, whoever stores it
				case *ast.BasicLit:
					require.NotRegexp(t, fixed, strings.Trim(v.Value, "`\""), name)
				}
				return true
			})
		}
	}
}
