package layout

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var testName = regexp.MustCompile("`((?:Test|Fuzz)[A-Z][A-Za-z0-9_]+)`")

// What a document says is shown by a test, is shown by a test.
func TestEveryTestThatADocumentNamesExists(t *testing.T) {
	root := filepath.Join("..", "..")
	known := testsBelow(t, root)
	named := 0
	for _, pattern := range []string{"*.md", "docs/*.md", "docs/decisions/*.md", "*/README.md"} {
		files, err := filepath.Glob(filepath.Join(root, pattern))
		require.NoError(t, err)
		for _, file := range files {
			text, err := os.ReadFile(file)
			require.NoError(t, err)
			for _, m := range testName.FindAllStringSubmatch(string(text), -1) {
				named++
				require.True(t, known[m[1]], "%s names the test %s, which does not exist", file, m[1])
			}
		}
	}
	require.Positive(t, named)
}

var (
	codeBlock = regexp.MustCompile("(?ms)^ *```.*?^ *```")
	linkTo    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading   = regexp.MustCompile(`(?m)^#+ +(.+)$`)
	notInSlug = regexp.MustCompile(`[^\p{L}\p{N}_ -]`)
)

// GitHub shows a link to a missing file as any other, and one to a missing heading leads to
// the top of the document.
func TestEveryLinkOfADocumentLeadsToAFileAndAHeading(t *testing.T) {
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

// go test is content with a pattern that no test fits.
func TestEveryTestThatTheMakefileRunsByNameExists(t *testing.T) {
	root := filepath.Join("..", "..")
	known := testsBelow(t, root)
	text, err := os.ReadFile(filepath.Join(root, "Makefile"))
	require.NoError(t, err)
	named := regexp.MustCompile(`-run '\^(\w+)\$\$'`).FindAllStringSubmatch(string(text), -1)
	require.Len(t, named, strings.Count(string(text), "-run "), "one name each, from its beginning to its end")
	require.NotEmpty(t, named)
	for _, m := range named {
		require.True(t, known[m[1]], "there is no test %s", m[1])
	}
}

func testsBelow(t *testing.T, root string) map[string]bool {
	t.Helper()
	known := map[string]bool{}
	require.NoError(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != root && strings.HasPrefix(d.Name(), "."):
			return fs.SkipDir
		case !strings.HasSuffix(path, "_test.go"):
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, decl := range file.Decls {
			if f, ok := decl.(*ast.FuncDecl); ok && f.Recv == nil {
				known[f.Name.Name] = true
			}
		}
		return nil
	}))
	return known
}
