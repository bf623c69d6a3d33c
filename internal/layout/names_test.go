package layout

import (
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// subjectFirst is the form of a test's name: the subject, that is a type, a function, a
// command or a table, then the contract. So `go test -run TestSettle` finds all tests of
// a subject.
var subjectFirst = regexp.MustCompile(`^Test[A-Z][A-Za-z0-9]*_[A-Z][A-Za-z0-9]*$`)

// longestName still fits a line of a terminal behind "--- PASS: ".
const longestName = 70

// earlier counts the tests in folders whose names do not have the form yet. A number may
// only become smaller, and at zero its line goes.
var earlier = map[string]int{}

func TestNames_BeginWithTheirSubjectAndAreShort(t *testing.T) {
	tests := testsByFolder(t, filepath.Join("..", ".."))
	for folder, names := range tests {
		var others []string
		for _, name := range names {
			if !strings.HasPrefix(name, "Test") || name == "TestMain" {
				continue
			}
			if !subjectFirst.MatchString(name) || len(name) > longestName {
				others = append(others, name)
			}
		}
		listed, is := earlier[folder]
		switch {
		case len(others) > listed:
			t.Errorf("%s: %d tests are not named Test, their subject, an underscore and the contract in at most %d characters, and %d were before:\n  %s",
				folder, len(others), longestName, listed, strings.Join(others, "\n  "))
		case is && len(others) == 0:
			t.Errorf("%s: all names have the form: take its line out of the list", folder)
		}
	}
	for folder := range earlier {
		require.Contains(t, tests, folder, "it has no tests any more: take its line out of the list")
	}
}
