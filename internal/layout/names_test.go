package layout

import (
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// subjectFirst is the form of a test's name: the subject, that is a type, a function, a
// command or a table, then the contract. So `go test -run TestSettle` finds all tests of
// a subject.
var subjectFirst = regexp.MustCompile(`^Test[A-Z][A-Za-z0-9]*_[A-Z][A-Za-z0-9]*$`)

// longestName still fits a line of a terminal behind "--- PASS: ".
const longestName = 70

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
		assert.Empty(t, others, "%s: the form of a test's name is Test, its subject, an underscore and the contract, in at most %d characters", folder, longestName)
	}
	require.NotEmpty(t, tests)
}
