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
