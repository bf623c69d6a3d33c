// Package layout checks the rule of who may import whom. It parses the files
// itself: a test that runs `go list` passes from the test cache after a forbidden
// import was added.
package layout

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/temporal-outbox/relay/"

// allowed is the table of the design: what a package may import directly, beside
// the standard library, in files that are not tests. An entry that ends in "/"
// allows everything below it.
var allowed = map[string][]string{
	"outbox":             {"github.com/jackc/pgx/v5/", "go.opentelemetry.io/otel/"},
	"schema":             {"github.com/jackc/pgx/v5/", "github.com/jackc/tern/v2/"},
	"internal/relay":     {module + "outbox"},
	"internal/printable": {},
	"internal/program":   {},
	"internal/timing":    {"golang.org/x/sys/unix"},
	"internal/liveness":  {module + "internal/program", module + "internal/timing", "go.temporal.io/api/", "go.temporal.io/sdk/client"},
	"internal/drain": {
		module + "internal/timing", "go.temporal.io/api/enums/v1", "go.temporal.io/api/workflowservice/v1", "google.golang.org/grpc",
		"google.golang.org/protobuf/proto",
	},
	"internal/stack": {
		module + "internal/stack/", "github.com/aws/aws-sdk-go-v2/", "github.com/jackc/pgx/v5/", "github.com/jedib0t/go-pretty/v6/",
		"go.temporal.io/api/workflowservice/v1", "go.temporal.io/sdk/client", "go.temporal.io/sdk/contrib/envconfig", "go.temporal.io/sdk/log",
		"golang.org/x/sync/errgroup", "golang.org/x/sys/unix",
	},
	"internal/stack/tcp": {},
	"internal/postgres":  {module + "internal/program", module + "internal/relay", module + "internal/timing", module + "outbox", "github.com/jackc/pgx/v5/"},
	"internal/publish": {
		module + "internal/relay", module + "internal/timing", module + "internal/publish/", "github.com/aws/aws-sdk-go-v2/aws",
		"go.opentelemetry.io/otel/attribute", "go.opentelemetry.io/otel/codes", "go.opentelemetry.io/otel/semconv/", "go.opentelemetry.io/otel/trace",
	},
	"internal/publish/errorcode":   {module + "internal/relay"},
	"internal/publish/limit":       {},
	"internal/publish/destination": {module + "internal/relay", module + "internal/publish/errorcode", "go.opentelemetry.io/otel/attribute"},
	"internal/publish/destination/destinationtest": {
		module + "internal/relay", module + "internal/publish/destination", module + "internal/publish/detach", module + "internal/publish/errorcode",
		"github.com/google/uuid", "github.com/stretchr/testify/require",
	},
	"internal/publish/message": {
		module + "internal/relay", module + "internal/publish/errorcode", "go.opentelemetry.io/otel/propagation", "go.opentelemetry.io/otel/trace",
	},
	"internal/publish/detach": {"github.com/aws/"},
	"internal/publish/awsapi": {
		module + "internal/relay", module + "internal/publish/destination", module + "internal/publish/detach", module + "internal/publish/errorcode",
		"github.com/aws/",
	},
	"internal/publish/sns": {
		module + "internal/relay", module + "internal/timing", module + "internal/publish/awsapi", module + "internal/publish/destination",
		module + "internal/publish/errorcode", module + "internal/publish/message", "github.com/aws/",
		"go.opentelemetry.io/otel/attribute", "go.opentelemetry.io/otel/semconv/",
	},
	"internal/publish/sqs": {
		module + "internal/relay", module + "internal/publish/awsapi", module + "internal/publish/destination", module + "internal/publish/errorcode",
		module + "internal/publish/message", "github.com/aws/", "go.opentelemetry.io/otel/attribute", "go.opentelemetry.io/otel/semconv/",
		"go.opentelemetry.io/otel/trace",
	},
	"internal/telemetry": {
		module + "internal/relay", "go.opentelemetry.io/", "github.com/prometheus/",
		"go.temporal.io/sdk/activity", "go.temporal.io/sdk/client", "go.temporal.io/sdk/interceptor", "go.temporal.io/sdk/contrib/opentelemetry",
	},
	"activities": {
		module + "internal/printable", module + "internal/relay", module + "internal/timing", "go.temporal.io/sdk/activity", "go.temporal.io/sdk/temporal",
		"go.temporal.io/api/enums/v1", "go.temporal.io/api/serviceerror", "golang.org/x/time/rate", "github.com/google/uuid",
	},
	"workflows": {
		module + "activities", module + "internal/printable", module + "internal/relay", module + "internal/timing",
		"go.temporal.io/sdk/workflow", "go.temporal.io/sdk/temporal", "go.temporal.io/sdk/worker", "go.temporal.io/sdk/converter", "go.temporal.io/api/enums/v1",
	},
}

// wiring may import anything that upward does not keep for others.
var wiring = []string{"starter", "worker", "internal/rdsauth", "localstack", "examples", "internal/lab", "internal/testenv", "internal/tools"}

// upward is who may import the folders that stand above the rest, in tests too: the commands, the
// shop that people copy, and the laboratory that takes the relay apart. The nearest entry counts. An
// entry stands for everything below it, and the folder itself is among its importers.
var upward = map[string][]string{
	"localstack":          {"localstack"},
	"localstack/topology": {"localstack", "examples/shop", "internal/lab"},
	"examples":            {"examples", "internal/lab/simulation", "internal/e2e"},
	"internal/lab":        {"internal/lab", "localstack", "examples/shop"},
	// Tests look at the container that they start with the program of LocalStack.
	"internal/lab/interop/community": {"internal/lab", "internal/e2e", "internal/composetest"},
}

func TestImports_AreThoseThatTheDesignAllows(t *testing.T) {
	checked := map[string]int{}
	for dir, imports := range importsByFolder(t, filepath.Join("..", ".."), false) {
		if below(dir, wiring) {
			continue
		}
		may, known := allowed[dir]
		require.True(t, known, "package %s is not in the table of what may import what", dir)
		for _, path := range imports {
			checked[dir]++
			require.True(t, isStandard(path) || matches(path, may), "%s may not import %s", dir, path)
		}
	}
	for dir := range allowed {
		require.Positive(t, checked[dir], "no import of %s was read", dir)
	}
}

func TestImports_DoNotGoUpward(t *testing.T) {
	checked := map[string]int{}
	for dir, imports := range importsByFolder(t, filepath.Join("..", ".."), true) {
		for _, path := range imports {
			ours, _ := strings.CutPrefix(path, module)
			for folder := ours; folder != "."; folder = filepath.ToSlash(filepath.Dir(folder)) {
				if may, is := upward[folder]; is {
					checked[folder]++
					require.True(t, below(dir, may), "%s may not import %s", dir, ours)
					break
				}
			}
		}
	}
	for folder := range upward {
		require.True(t, folder == "localstack" || checked[folder] > 0, "nothing imports %s", folder)
	}
}

// importsByFolder reads the files of each folder, and those of its tests only if tests is set.
func importsByFolder(t *testing.T, root string, tests bool) map[string][]string {
	t.Helper()
	imports := map[string][]string{}
	require.NoError(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != root && strings.HasPrefix(d.Name(), ".") && d.Name() != "..", d.Name() == "testdata":
			return fs.SkipDir
		case !strings.HasSuffix(path, ".go") || !tests && strings.HasSuffix(path, "_test.go"):
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		dir, err := filepath.Rel(root, filepath.Dir(path))
		if err != nil {
			return err
		}
		dir = filepath.ToSlash(dir)
		imports[dir] = append(imports[dir], "")
		for _, i := range file.Imports {
			name, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				return err
			}
			imports[dir] = append(imports[dir], name)
		}
		return nil
	}))
	if !tests {
		delete(imports, "internal/e2e") // a doc.go beside tests
	}
	return imports
}

func isStandard(path string) bool {
	first, _, _ := strings.Cut(path, "/")
	return !strings.Contains(first, ".")
}

func matches(path string, may []string) bool {
	for _, m := range may {
		if path == strings.TrimSuffix(m, "/") || strings.HasSuffix(m, "/") && strings.HasPrefix(path, m) {
			return true
		}
	}
	return false
}

func below(dir string, roots []string) bool {
	for _, r := range roots {
		if dir == r || strings.HasPrefix(dir, r+"/") {
			return true
		}
	}
	return false
}

// Generated folders and the top level are the user's: nothing is added without a
// reason.
func TestTopLevel_HasOnlyWhatTheUserFixed(t *testing.T) {
	entries, err := os.ReadDir(filepath.Join("..", ".."))
	require.NoError(t, err)
	known := map[string]bool{}
	for _, name := range strings.Fields(`go.mod go.sum workflows activities worker starter schema localstack docker-compose.yml README.md
		outbox internal examples docs deploy
		Dockerfile Makefile LICENSE CHANGELOG.md CONTRIBUTING.md bin`) {
		known[name] = true
	}
	for _, e := range entries {
		require.True(t, known[e.Name()] || strings.HasPrefix(e.Name(), "."), "%s is new at the top level", e.Name())
	}
}
