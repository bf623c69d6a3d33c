package layout

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

// named is a word that names a test. "…" or an underscore at its end stands for the rest
// of a name.
var named = regexp.MustCompile(`\b(?:Test|Fuzz|Benchmark)[A-Z]\w*…?`)

// A promise in a document is only as good as the test that the document names.
func TestDocuments_NameOnlyTestsThatExist(t *testing.T) {
	root := filepath.Join("..", "..")
	var known []string
	for _, tests := range testsByFolder(t, root) {
		known = append(known, tests...)
	}
	for path, text := range documents(t, root) {
		for _, name := range namesIn(text) {
			if !exists(known, name) {
				t.Errorf("%s names the test %s, which does not exist", path, name)
			}
		}
	}
}

var (
	codeBlock = regexp.MustCompile("(?ms)^ *```.*?^ *```")
	linkTo    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading   = regexp.MustCompile(`(?m)^#+ +(.+)$`)
	notInSlug = regexp.MustCompile(`[^\p{L}\p{N}_ -]`)
)

// GitHub shows a link to a missing file as any other, and one to a missing heading leads to
// the top of the document.
func TestDocuments_LinkToFilesAndHeadingsThatExist(t *testing.T) {
	root := filepath.Join("..", "..")
	checked := 0
	for _, pattern := range []string{"*.md", "docs/*.md", "docs/decisions/*.md", "*/README.md", "deploy/*/README.md", "examples/*/README.md"} {
		files, err := filepath.Glob(filepath.Join(root, pattern))
		require.NoError(t, err)
		for _, file := range files {
			for _, m := range linkTo.FindAllStringSubmatch(prose(t, file), -1) {
				if strings.Contains(m[1], "://") {
					continue
				}
				checked++
				path, anchor, hasAnchor := strings.Cut(m[1], "#")
				target := file
				if path != "" {
					target = filepath.Join(filepath.Dir(file), path)
				}
				_, err := os.Stat(target)
				require.NoError(t, err, "%s links to %s", file, m[1])
				if hasAnchor {
					require.Contains(t, anchors(t, target), anchor, "%s links to %s", file, m[1])
				}
			}
		}
	}
	require.Positive(t, checked)
}

// prose is a document without its blocks of code.
func prose(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	return codeBlock.ReplaceAllString(string(text), "")
}

// anchors are those that GitHub gives to the headings of a document.
func anchors(t *testing.T, file string) (all []string) {
	t.Helper()
	for _, m := range heading.FindAllStringSubmatch(prose(t, file), -1) {
		all = append(all, strings.ReplaceAll(notInSlug.ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-"))
	}
	return all
}

// longestRow is the length in characters up to which a row of a table is read at once.
const longestRow = 160

// A long row breaks in a terminal and in GitHub's narrow columns. More belongs into a
// sentence below the table.
func TestDocuments_HaveNoLongTableRows(t *testing.T) {
	rows := 0
	for path, text := range documents(t, filepath.Join("..", "..")) {
		if filepath.Ext(path) != ".md" {
			continue
		}
		for i, line := range strings.Split(codeBlock.ReplaceAllStringFunc(text, blank), "\n") {
			if !strings.HasPrefix(strings.TrimSpace(line), "|") {
				continue
			}
			rows++
			if utf8.RuneCountInString(line) > longestRow {
				t.Errorf("%s:%d: a row of a table has %d characters, and %d are the most: move a part below the table", path, i+1, utf8.RuneCountInString(line), longestRow)
			}
		}
	}
	require.Greater(t, rows, 100)
}

// blank keeps the number of lines of a text.
func blank(text string) string { return strings.Repeat("\n", strings.Count(text, "\n")) }

func TestDocuments_AreReadAndNamesInThemAreFound(t *testing.T) {
	root := filepath.Join("..", "..")
	all := documents(t, root)
	for _, path := range []string{"Makefile", "README.md", "docs/reliability.md", "docs/decisions/002-scheduled-runs.md", "schema/README.md"} {
		require.NotEmpty(t, all[path], path)
	}
	require.Greater(t, len(namesIn(all["docs/reliability.md"])), 100)
	require.Equal(t, []string{"TestOne", "FuzzTwo…", "TestThree_…"}, namesIn("`TestOne` and `FuzzTwo…`:\n`go test ./a -run TestFour`, `TestThree_…`"))

	known := []string{"TestRollover_LosesNothing", "TestRelay"}
	for name, want := range map[string]bool{
		"TestRelay": true, "TestRelays": false, "TestRel": false, "TestRel…": true, "TestRollover_": true, "TestRollover_…": true, "TestRollover_Of…": false,
	} {
		require.Equal(t, want, exists(known, name), name)
	}
}

// namesIn are the tests that a text names. Patterns in commands are not names.
func namesIn(text string) []string {
	return named.FindAllString(command.ReplaceAllString(joined.Replace(text), ""), -1)
}

// exists reports whether a document may use name.
func exists(known []string, name string) bool {
	prefix, cut := strings.CutSuffix(name, "…")
	if cut || strings.HasSuffix(name, "_") {
		return slices.ContainsFunc(known, func(test string) bool { return strings.HasPrefix(test, prefix) })
	}
	return slices.Contains(known, name)
}

// go test is content with a pattern that matches no test, so a renamed test would no
// longer run, and nobody would notice.
func TestCommands_RunTestsThatExist(t *testing.T) {
	root := filepath.Join("..", "..")
	tests := testsByFolder(t, root)
	read := documents(t, root)
	for path, text := range sources(t, root) {
		read[path] = text // comments say how to make generated documents
	}
	found := 0
	for path, text := range read {
		for _, command := range goTests(text) {
			found++
			for _, problem := range command.problems(tests) {
				t.Errorf("%s: %s", path, problem)
			}
		}
	}
	require.Greater(t, found, 3, "the form of commands has changed, and this test sees none any more")
}

func TestCommands_OfEveryFormAreUnderstood(t *testing.T) {
	tests := map[string][]string{"a": {"TestOne", "TestTwo_Halves"}, "a/b": {"TestThree", "BenchmarkFour"}, "c": {"TestFive"}}
	for text, want := range map[string][]string{
		"go test ./a -run TestOne -update":                           nil,
		"`go test -race -run 'One|Three' ./a/...`":                   nil,
		"go test -run=One \\\n\t./a":                                 nil,
		"go test -count=1 -run '^TestOne$$' ./a/ || exit 1":          nil,
		"go test -run '^TestOne$/^a case$' ./a":                      nil,
		"go test -run '^$' -bench Four ./a/b":                        nil,
		"go test ./nowhere":                                          nil, // all tests, whichever there are
		"go -C c test -run Five .":                                   nil,
		"localstack exec -- go test -run One ./a; go test -race ./c": nil,
		"go test -run TestOnes ./a":                                  {`-run "TestOnes" matches no test in ./a`},
		"go test -run 'One|Nine' ./a":                                {`-run "Nine" matches no test in ./a`},
		"go test -run 'One|Three' ./a ./c":                           {`-run "Three" matches no test in ./a ./c`, `-run "One|Three" matches no test in ./c`},
		"go test -bench Three ./a/b":                                 {`-bench "Three" matches no test in ./a/b`},
		"go test -run One":                                           {`-run "One" names no package`},
		"go test -run One ./nowhere":                                 {`-run "One" matches no test in ./nowhere`},
	} {
		var got []string
		for _, command := range goTests(text) {
			got = append(got, command.problems(tests)...)
		}
		require.Equal(t, want, got, text)
	}
}

// goTest is a command that runs tests by name.
type goTest struct {
	patterns []selector
	packages []string // as they are written
	dir      string   // of go -C
}

// selector is a flag that chooses tests, and its pattern.
type selector struct{ flag, pattern string }

var (
	command  = regexp.MustCompile(`\bgo (?:-C (\S+) )?test ((?:'[^']*'|"[^"]*"|[^'"` + "`" + `;&|\n])*)`)
	argument = regexp.MustCompile(`(?:'[^']*'|"[^"]*"|[^\s'"])+`)
)

// joined makes one line of a command that a backslash continues, and of make's "$$" the
// shell's "$".
var joined = strings.NewReplacer("\\\n", " ", "$$", "$")

// goTests are the commands in a text that run tests by name.
func goTests(text string) []goTest {
	var all []goTest
	for _, m := range command.FindAllStringSubmatch(joined.Replace(text), -1) {
		c := goTest{dir: m[1]}
		words := argument.FindAllString(m[2], -1)
		for i := 0; i < len(words); i++ {
			flag, pattern, given := strings.Cut(words[i], "=")
			switch {
			case flag == "-run", flag == "-bench", flag == "-fuzz":
				if i+1 < len(words) && !given {
					i++
					pattern = words[i]
				}
				c.patterns = append(c.patterns, selector{flag, strings.Trim(pattern, `'"`)})
			case strings.HasPrefix(words[i], "."):
				c.packages = append(c.packages, words[i])
			}
		}
		if len(c.patterns) > 0 {
			all = append(all, c)
		}
	}
	return all
}

// kinds are the functions among which a flag chooses.
var kinds = map[string]*regexp.Regexp{
	"-run": regexp.MustCompile(`^(Test|Fuzz|Example)`), "-bench": regexp.MustCompile(`^Benchmark`), "-fuzz": regexp.MustCompile(`^Fuzz`),
}

// problems says which pattern, and which alternative of one, matches nothing in the
// packages of the command, and in which of the packages nothing would run.
func (c goTest) problems(tests map[string][]string) []string {
	var problems []string
	for _, s := range c.patterns {
		pattern, _, _ := strings.Cut(s.pattern, "/") // the rest chooses among the test's cases
		if pattern == "^$" {
			continue // no test, on purpose
		}
		if len(c.packages) == 0 {
			problems = append(problems, s.flag+` "`+pattern+`" names no package`)
			continue
		}
		matches := func(pattern, where string) bool {
			is, err := regexp.Compile(pattern)
			return err == nil && slices.ContainsFunc(testsOf(tests, c.dir, where), func(name string) bool {
				return kinds[s.flag].MatchString(name) && is.MatchString(name)
			})
		}
		complain := func(pattern string, packages ...string) {
			problems = append(problems, s.flag+` "`+pattern+`" matches no test in `+strings.Join(packages, " "))
		}
		somewhere := false
		for _, alternative := range strings.Split(pattern, "|") {
			if slices.ContainsFunc(c.packages, func(where string) bool { return matches(alternative, where) }) {
				somewhere = true
			} else {
				complain(alternative, c.packages...)
			}
		}
		for _, where := range c.packages {
			if somewhere && !matches(pattern, where) {
				complain(pattern, where)
			}
		}
	}
	return problems
}

// testsOf are the tests in a package, or below a folder if the argument ends in "/...".
func testsOf(tests map[string][]string, dir, where string) []string {
	where, below := strings.CutSuffix(where, "/...")
	folder := filepath.ToSlash(filepath.Join(dir, where))
	var all []string
	for path, names := range tests {
		if path == folder || below && (folder == "." || strings.HasPrefix(path, folder+"/")) {
			all = append(all, names...)
		}
	}
	return all
}

// documents are the texts that tell people and machines what to run, by path: Markdown,
// the Makefile, workflows of CI and what else is no source.
func documents(t *testing.T, root string) map[string]string {
	t.Helper()
	return textsBelow(t, root, func(path string) bool {
		switch filepath.Ext(path) {
		case ".md", ".yml", ".yaml", ".sh":
			return true
		}
		base := filepath.Base(path)
		return base == "Makefile" || strings.HasPrefix(base, "Dockerfile")
	})
}

// sources are the Go files, without those of this package, which has such commands as
// examples.
func sources(t *testing.T, root string) map[string]string {
	t.Helper()
	return textsBelow(t, root, func(path string) bool {
		return filepath.Ext(path) == ".go" && filepath.ToSlash(filepath.Dir(path)) != "internal/layout"
	})
}

// textsBelow are the texts of the files that are wanted, by their path from root.
func textsBelow(t *testing.T, root string, wanted func(path string) bool) map[string]string {
	t.Helper()
	texts := map[string]string{}
	require.NoError(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() {
			if path != root && strings.HasPrefix(name, ".") && name != ".github" || name == "testdata" || name == "bin" {
				return fs.SkipDir
			}
			return nil
		}
		from, err := filepath.Rel(root, path)
		if err != nil || !d.Type().IsRegular() || !wanted(from) {
			return err
		}
		text, err := os.ReadFile(path)
		texts[filepath.ToSlash(from)] = string(text)
		return err
	}))
	return texts
}

// testsByFolder are the tests, benchmarks, fuzz targets and examples of each folder.
func testsByFolder(t *testing.T, root string) map[string][]string {
	t.Helper()
	tests := map[string][]string{}
	for path, text := range textsBelow(t, root, func(path string) bool { return strings.HasSuffix(path, "_test.go") }) {
		file, err := parser.ParseFile(token.NewFileSet(), path, text, parser.SkipObjectResolution)
		require.NoError(t, err)
		folder := filepath.ToSlash(filepath.Dir(path))
		for _, decl := range file.Decls {
			if f, ok := decl.(*ast.FuncDecl); ok && f.Recv == nil && isTest.MatchString(f.Name.Name) {
				tests[folder] = append(tests[folder], f.Name.Name)
			}
		}
	}
	return tests
}

// isTest is the name of a function that go test calls.
var isTest = regexp.MustCompile(`^(?:(?:Test|Fuzz|Benchmark)[A-Z_]|Example)`)
