package composetest

import (
	"go/version"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestTheBuilderIsNewEnoughForTheModule(t *testing.T) {
	builder := regexp.MustCompile(`(?m)^FROM golang:(\d+\.\d+\.\d+)-`).FindStringSubmatch(dockerfile(t))
	require.NotNil(t, builder, "the builder is pinned to a patch release")
	mod, err := os.ReadFile(filepath.Join(root, "go.mod"))
	require.NoError(t, err)
	module := regexp.MustCompile(`(?m)^go (\S+)$`).FindStringSubmatch(string(mod))
	require.NotNil(t, module)
	assert.GreaterOrEqual(t, version.Compare("go"+builder[1], "go"+module[1]), 0, "%s for go %s", builder[1], module[1])
}

func TestEveryImageThatRunsIsDistrolessAndUnprivileged(t *testing.T) {
	text := dockerfile(t)
	for _, stage := range []string{"demo", "relay"} {
		_, rest, found := strings.Cut(text, " AS "+stage+"\n")
		require.True(t, found, stage)
		body, _, _ := strings.Cut(rest, "\nFROM ")
		assert.Contains(t, body, "USER 65532:65532", stage)
		assert.NotContains(t, body, "RUN ", stage)
		assert.Regexp(t, `FROM gcr\.io/distroless/\S+:nonroot AS `+stage, text)
	}
	all := stages(t)
	assert.Equal(t, "relay", all[len(all)-1], "what docker build makes without a target")
}

// The commands in docker-compose.yml are the binaries that the Dockerfile copies.
func TestEveryCommandIsInItsImage(t *testing.T) {
	for name, s := range load(t).Services {
		if s.Build == nil || len(s.Command) == 0 {
			continue
		}
		assert.Regexp(t, `COPY --from=build-relay .*/out/`+s.Command[0]+` `, dockerfile(t), name)
		_, err := os.Stat(filepath.Join(root, s.Command[0], "main.go"))
		assert.NoError(t, err, name)
	}
}

func TestTheBuildContextHasWhatTheBuildReads(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, ".dockerignore"))
	require.NoError(t, err)
	ignored := strings.Fields(regexp.MustCompile(`(?m)^#.*$`).ReplaceAllString(string(text), ""))
	for _, needed := range []string{
		"go.mod", "go.sum", "outbox", "schema", "activities", "workflows", "worker", "starter", "internal", "examples", "localstack",
	} {
		assert.False(t, slices.Contains(ignored, needed), needed)
	}
	for _, not := range []string{".git", ".tools"} {
		assert.Contains(t, ignored, not)
	}
}
