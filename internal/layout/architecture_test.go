package layout

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// architecture is the document for a reader who has never seen the code.
const architecture = "docs/architecture.md"

var (
	part      = regexp.MustCompile(`(?m)^## `)
	stop      = regexp.MustCompile(`(?m)^\d+\. `)
	nextRow   = regexp.MustCompile(`(?m)^(?:\||- )`) // of a table or a list
	nextBlock = regexp.MustCompile(`\n\n`)
	// place is a linked file, or a name of the file before it.
	place    = regexp.MustCompile("\\[`([^`]+)`\\]\\(([^)]+)\\)|`([^`]+)`")
	stops    = regexp.MustCompile(`\*\*(\d+) stops\*\*`)
	climbs   = regexp.MustCompile(`\*\*(\d+) climbs\*\*`)
	ways     = []string{"The way of an event", "The way of the answer"}
	created  = regexp.MustCompile(`(?m)^CREATE (?:OR REPLACE )?FUNCTION (outbox\.\w+)\(`)
	triggers = regexp.MustCompile(`(?m)^CREATE TRIGGER \w+ AFTER INSERT ON outbox\.event\s[^;]*EXECUTE FUNCTION (outbox\.\w+)\(\);`)
)

// A stop that was renamed or moved would send the reader into nothing.
func TestArchitecture_NamesFilesAndFunctionsThatExist(t *testing.T) {
	root := filepath.Join("..", "..")
	for _, way := range ways {
		for _, item := range stopsOf(section(t, way)) {
			require.NotZero(t, checkPlaces(t, root, item), "a stop names no function: %s", item)
		}
	}
	for table, want := range map[string]int{"The goroutines of an attempt": 5, "Where to change what": 15} {
		rows := 0
		for _, row := range nextRow.Split(section(t, table), -1)[1:] {
			if row, _, _ = strings.Cut(row, "\n\n"); strings.Contains(row, "](") {
				rows++
				require.NotZero(t, checkPlaces(t, root, row), "a row names no function: %s", row)
			}
		}
		require.Equal(t, want, rows, "%q has other rows than this test expects", table)
	}
}

// The counts say how easy the code is to follow, so they have to be true.
func TestArchitecture_CountsItsStopsAndClimbs(t *testing.T) {
	for _, way := range ways {
		text := section(t, way)
		require.Equal(t, []int{len(stopsOf(text))}, numbers(t, stops, text), "stops of %q", way)
	}
	there := section(t, ways[0])
	require.Equal(t, []int{strings.Count(strings.Join(stopsOf(there), ""), "↑")}, numbers(t, climbs, there))
}

func TestArchitecture_ShowsWhoMayImportWhom(t *testing.T) {
	text := section(t, "Who may import whom")
	for _, folder := range slices.Sorted(maps.Keys(allowed)) {
		row := importRow(folder)
		require.Contains(t, text, row+"\n")
	}
	require.Equal(t, len(allowed), strings.Count(text, "\n| `"), "the table has a package that is not in allowed")
	for _, folder := range wiring {
		require.Contains(t, text, "`"+folder+"`")
	}
}

func TestArchitecture_HasATableOfAllFolders(t *testing.T) {
	root := filepath.Join("..", "..")
	var named []string
	for _, line := range strings.Split(section(t, "Folders"), "\n") {
		if folder, is := strings.CutPrefix(line, "| `"); is {
			folder, _, _ = strings.Cut(folder, "`")
			named = append(named, folder)
		}
	}
	var there []string
	for _, pattern := range []string{"*", "internal/*"} {
		found, err := filepath.Glob(filepath.Join(root, pattern))
		require.NoError(t, err)
		for _, path := range found {
			info, err := os.Stat(path)
			require.NoError(t, err)
			folder, err := filepath.Rel(root, path)
			require.NoError(t, err)
			if info.IsDir() && !strings.HasPrefix(filepath.Base(path), ".") && folder != "internal" && folder != "bin" {
				there = append(there, filepath.ToSlash(folder))
			}
		}
	}
	require.ElementsMatch(t, there, named)
}

// No Go code calls the trigger, so a reader of Write cannot come across it.
func TestOutbox_NamesTheTriggerThatTakesItsEvents(t *testing.T) {
	root := filepath.Join("..", "..")
	text, err := os.ReadFile(filepath.Join(root, "outbox", "doc.go"))
	require.NoError(t, err)
	found := 0
	for _, migration := range migrations(t, root) {
		for _, m := range triggers.FindAllStringSubmatch(migration.text, -1) {
			found++
			require.Contains(t, string(text), m[1])
		}
	}
	require.Positive(t, found, "the form of the trigger has changed, and this test sees none any more")
}

// section is the part of the document below a heading.
func section(t *testing.T, heading string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", filepath.FromSlash(architecture)))
	require.NoError(t, err)
	for _, s := range part.Split(string(text), -1) {
		if body, is := strings.CutPrefix(s, heading+"\n"); is {
			return body
		}
	}
	require.Fail(t, "there is no such heading", heading)
	return ""
}

// stopsOf are the items of the numbered list in a section.
func stopsOf(text string) []string {
	at := stop.FindStringIndex(text)
	if at == nil {
		return nil
	}
	list := nextBlock.Split(text[at[0]:], 2)[0]
	return stop.Split(list, -1)[1:]
}

// checkPlaces checks that each file in a text is there, and that it declares the functions that
// the text names behind it. It returns the number of functions.
func checkPlaces(t *testing.T, root, text string) (functions int) {
	t.Helper()
	file := ""
	for _, m := range place.FindAllStringSubmatch(text, -1) {
		if name := m[3]; name != "" {
			functions++
			require.Contains(t, declared(t, root, file), name, "%q is not in %s: %s", name, file, text)
			continue
		}
		file = m[1]
		require.Equal(t, "../"+file, m[2], "the link and its text differ")
	}
	return functions
}

// declared are the functions of a Go file, a method as Type.Method, or those SQL functions of
// which the file has the last definition.
func declared(t *testing.T, root, path string) (names []string) {
	t.Helper()
	if filepath.Ext(path) == ".sql" {
		last := map[string]string{}
		for _, m := range migrations(t, root) {
			for _, name := range created.FindAllStringSubmatch(m.text, -1) {
				last[name[1]] = m.path
			}
		}
		maps.DeleteFunc(last, func(_, in string) bool { return in != path })
		return slices.Collect(maps.Keys(last))
	}
	file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, filepath.FromSlash(path)), nil, parser.SkipObjectResolution)
	require.NoError(t, err)
	for _, decl := range file.Decls {
		f, ok := decl.(*ast.FuncDecl)
		if !ok {
			continue
		}
		name := f.Name.Name
		if f.Recv != nil {
			receiver := f.Recv.List[0].Type
			if pointer, is := receiver.(*ast.StarExpr); is {
				receiver = pointer.X
			}
			if of, is := receiver.(*ast.Ident); is {
				name = of.Name + "." + name
			}
		}
		names = append(names, name)
	}
	return names
}

// migration is a file of the schema, without the way back.
type migration struct{ path, text string }

// migrations are those of the schema, in their order.
func migrations(t *testing.T, root string) (all []migration) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, "schema", "migrations", "*.sql"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	slices.Sort(files)
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		up, _, _ := strings.Cut(string(text), "---- create above / drop below ----")
		all = append(all, migration{"schema/migrations/" + filepath.Base(file), up})
	}
	return all
}

// numbers are the numbers that a text gives in a form.
func numbers(t *testing.T, form *regexp.Regexp, text string) (all []int) {
	t.Helper()
	for _, m := range form.FindAllStringSubmatch(text, -1) {
		n, err := strconv.Atoi(m[1])
		require.NoError(t, err)
		all = append(all, n)
	}
	return all
}

// libraries are the short names of modules that do not belong to this repository.
var libraries = []struct{ prefix, name string }{
	{"github.com/aws/", "AWS SDK"},
	{"github.com/google/uuid", "uuid"},
	{"github.com/jackc/pgx/", "pgx"},
	{"github.com/jackc/tern/", "tern"},
	{"github.com/jedib0t/go-pretty/", "go-pretty"},
	{"github.com/prometheus/", "Prometheus"},
	{"github.com/stretchr/testify/", "testify"},
	{"go.opentelemetry.io/", "OpenTelemetry"},
	{"go.temporal.io/", "Temporal"},
	{"golang.org/x/", "golang.org/x"},
	{"google.golang.org/", "gRPC"},
}

// importRow is the row of a package in the document.
func importRow(folder string) string {
	var ours, others []string
	for _, path := range allowed[folder] {
		if own, is := strings.CutPrefix(path, module); is {
			own = strings.TrimPrefix(own, "internal/")
			if strings.HasSuffix(own, "/") {
				own += "*"
			}
			ours = append(ours, "`"+own+"`")
			continue
		}
		name := path
		for _, l := range libraries {
			if strings.HasPrefix(path, l.prefix) {
				name = l.name
			}
		}
		others = append(others, name)
	}
	slices.Sort(ours)
	slices.Sort(others)
	return "| `" + folder + "` | " + orNone(ours) + " | " + orNone(slices.Compact(others)) + " |"
}

func orNone(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}
