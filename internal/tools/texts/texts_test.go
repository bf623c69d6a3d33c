package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"
)

// repository has every root, and the given source in one of them.
func repository(file, source string) fstest.MapFS {
	files := fstest.MapFS{}
	for _, root := range roots {
		files[root+"/doc.go"] = &fstest.MapFile{Data: []byte("package " + root + "\n")}
	}
	files[file] = &fstest.MapFile{Data: []byte(source)}
	return files
}

func collected(t *testing.T, file, source string) []text {
	t.Helper()
	texts, err := collect(repository(file, source))
	require.NoError(t, err)
	return texts
}

func TestCollect_FindsTextsByTheirPlace(t *testing.T) {
	const file = "worker/x.go"
	for name, c := range map[string]struct {
		source string
		want   []text
	}{
		"the fields of a command": {
			"package worker\nvar c = &cobra.Command{\n\tUse: \"run\",\n\tLong: `Runs it.\nTwice.`,\n}",
			[]text{{help, "use", file, 3, "run"}, {help, "long", file, 4, "Runs it.\nTwice."}},
		},
		"flags": {
			"package worker\nfunc f() { g.StringVar(&x, \"by\", d(\"one two\"), \"your name\"); flag.Bool(\"all\", true, \"everything\") }",
			[]text{{help, "flag all", file, 2, "everything"}, {other, "", file, 2, "one two"}, {help, "flag by", file, 2, "your name"}},
		},
		"errors, of one word too": {
			"package worker\nvar a, b = errors.New(\"closed\"), fmt.Errorf(\"read \"+name+\": %w\", err)",
			[]text{{failure, "", file, 2, "closed"}, {failure, "", file, 2, "read {name}: %w"}},
		},
		"errors of functions that take a format, and of types": {
			"package worker\nfunc misuse(format string, args ...any) error { return nil }\ntype e string\nfunc (e) Error() string { return \"bad luck, says \" + string(e) }\nvar a, b = misuse(\"no %s\", x), e(\"gone\")",
			[]text{{failure, "", file, 4, "bad luck, says {string(e)}"}, {failure, "", file, 5, "gone"}, {failure, "", file, 5, "no %s"}},
		},
		"errors of Temporal, without their types": {
			"package worker\nvar a = temporal.NewNonRetryableApplicationError(\"broken\", \"TypeOfIt\", nil)",
			[]text{{failure, "", file, 2, "broken"}},
		},
		"log messages, without their keys": {
			"package worker\nfunc f() { workflow.GetLogger(ctx).Warn(\"late\", \"topic of it\", x) }",
			[]text{{logged, "warn", file, 2, "late"}, {other, "", file, 2, "topic of it"}},
		},
		"texts of Temporal's UI": {
			"package worker\nvar o = workflow.ActivityOptions{Summary: brief(\"retry \" + topic), TaskQueue: \"the queue\"}\nfunc f() { workflow.SetCurrentDetails(ctx, \"done\") }",
			[]text{{ui, "summary", file, 2, "retry {topic}"}, {other, "", file, 2, "the queue"}, {ui, "current details", file, 3, "done"}},
		},
		"help of metrics": {
			"package worker\nvar o = metric.WithDescription(\"Events.\")",
			[]text{{metrics, "", file, 2, "Events."}},
		},
		"sentences elsewhere, but neither names nor SQL nor tags nor paths": {
			"package worker\nimport \"a path/x\"\ntype t struct { A int `json:\"not this\"` }\nconst a, qSQL = \"\\nSELECT one FROM it\", \"with that one\"\nfunc f() { g(\"it goes on\", \"name\", \"%s: %s\"); h[\"key of map\"] = 1 }",
			[]text{{other, "", file, 5, "it goes on"}},
		},
	} {
		t.Run(name, func(t *testing.T) { require.Equal(t, c.want, collected(t, file, c.source)) })
	}
}

func TestCollect_TakesTextsOfWorkflowsForTheUI(t *testing.T) {
	got := collected(t, "workflows/x.go", "package workflows\nconst Details = \"Claims events. \" +\n\t\"Nothing is lost.\"")
	require.Equal(t, []text{{ui, "", "workflows/x.go", 2, "Claims events. Nothing is lost."}}, got)
}

func TestCollect_PassesTestsAndToolsOver(t *testing.T) {
	for _, file := range []string{"worker/x_test.go", "internal/testenv/x.go", "internal/tools/x/x.go", "worker/testdata/x.go"} {
		require.Empty(t, collected(t, file, "package x\nvar a = errors.New(\"closed\")"), file)
	}
}

func TestCollect_FailsWithoutARoot(t *testing.T) {
	files := repository("worker/x.go", "package worker")
	delete(files, "outbox/doc.go")
	_, err := collect(files)
	require.Error(t, err)
}

func TestCollect_FailsOnSourceThatDoesNotParse(t *testing.T) {
	_, err := collect(repository("worker/x.go", "package"))
	require.ErrorContains(t, err, "worker/x.go")
}

func TestMarkdown_EndsLocationsWithAFullStopAndQuotesLines(t *testing.T) {
	got := markdown([]text{{help, "long", "a/b.go", 7, "Give <name>.\n\nIt goes on.\n"}})
	require.Contains(t, got, "## Help of the commands\n\n1 texts.\n\n### a/b.go\n\n`a/b.go:7`, long.\n\n> Give \\<name>.\n>\n> It goes on.\n")
}

func TestDocument_HasTheTextsOfThisRepositoryEachTime(t *testing.T) {
	root := filepath.Join("..", "..", "..")
	var one bytes.Buffer
	require.NoError(t, run(root, "", &one))
	file := filepath.Join(t.TempDir(), "texts.md")
	require.NoError(t, run(root, file, &bytes.Buffer{}))
	two, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, string(two), one.String())

	texts, err := collect(os.DirFS(root))
	require.NoError(t, err)
	for _, k := range kinds {
		require.Positive(t, count(texts, k), k)
	}
	for _, dir := range roots {
		require.True(t, slices.ContainsFunc(texts, func(t text) bool { return strings.HasPrefix(t.file, dir+"/") }), dir)
	}
	for _, want := range []text{
		{kind: failure, file: "schema/schema.go", text: "read schema version: %w"},
		{kind: logged, file: "workflows/attributes.go", text: "search attributes not set"},
		{kind: ui, file: "workflows/gate.go", text: "check this version's configuration, rights and destinations"},
	} {
		require.True(t, slices.ContainsFunc(texts, func(t text) bool {
			return t.kind == want.kind && t.file == want.file && t.text == want.text
		}), want.text)
	}
}
