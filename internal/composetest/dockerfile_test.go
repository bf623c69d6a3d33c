package composetest

import (
	"go/version"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestDockerfile_TheBuilderIsNewEnoughForTheModule(t *testing.T) {
	builder := regexp.MustCompile(`(?m)^FROM \S+ golang:(\d+\.\d+\.\d+)-`).FindStringSubmatch(dockerfile(t))
	require.NotNil(t, builder, "the builder is pinned to a patch release")
	mod, err := os.ReadFile(filepath.Join(root, "go.mod"))
	require.NoError(t, err)
	module := regexp.MustCompile(`(?m)^go (\S+)$`).FindStringSubmatch(string(mod))
	require.NotNil(t, module)
	assert.GreaterOrEqual(t, version.Compare("go"+builder[1], "go"+module[1]), 0, "%s for go %s", builder[1], module[1])
}

func TestDockerfile_EveryImageThatRunsIsDistrolessAndUnprivileged(t *testing.T) {
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

// The build of an image has no repository to learn a version from.
func TestDockerfile_GivesTheVersionOfTheBuildToItsPrograms(t *testing.T) {
	flags := regexp.MustCompile(`go build -ldflags="([^"]*)"`).FindAllStringSubmatch(dockerfile(t), -1)
	require.Len(t, flags, 2)
	require.Equal(t, flags[0][1], flags[1][1], "demo and relay")
	linked := strings.NewReplacer("${VERSION}", "v9.8.7", "${REVISION}", "0123abc").Replace(flags[0][1])
	require.NotContains(t, linked, "$")
	program := filepath.Join(t.TempDir(), "worker")
	build := exec.CommandContext(t.Context(), "go", "build", "-buildvcs=false", "-ldflags="+linked, "-o", program, "./worker")
	build.Dir = root
	out, err := build.CombinedOutput()
	require.NoError(t, err, string(out))
	said, err := exec.CommandContext(t.Context(), program, "--version").Output()
	require.NoError(t, err)
	assert.Regexp(t, `^worker version v9\.8\.7 \(revision 0123abc, go1\.`, string(said))
}

func TestDockerfile_LabelsImagesWithTheirNameAndSource(t *testing.T) {
	for _, stage := range []string{"demo", "relay"} {
		_, rest, _ := strings.Cut(dockerfile(t), " AS "+stage+"\n")
		body, _, _ := strings.Cut(rest, "\nFROM ")
		assert.Contains(t, body, "ARG VERSION REVISION\n", stage)
		for _, label := range []string{"title", "description", "source", "licenses", "version", "revision"} {
			assert.Contains(t, body, "org.opencontainers.image."+label+`="`, stage)
		}
	}
}

// The commands in docker-compose.yml are the binaries that the Dockerfile copies.
func TestDockerfile_EveryCommandIsInItsImage(t *testing.T) {
	for name, s := range load(t).Services {
		if s.Build == nil || len(s.Command) == 0 {
			continue
		}
		assert.Regexp(t, `COPY --from=build-relay .*/out/`+s.Command[0]+` `, dockerfile(t), name)
		_, err := os.Stat(filepath.Join(root, s.Command[0], "main.go"))
		assert.NoError(t, err, name)
	}
}

func TestDockerfile_ItsContextHasEveryFileThatTheBuildReads(t *testing.T) {
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
