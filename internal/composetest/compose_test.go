// Package composetest checks docker-compose.yml and the Dockerfile without a
// Docker engine, so that the container variant of the stack cannot rot unseen
// where only the other variant is run.
package composetest

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/lab/interop/community"
)

const root = "../.."

// oneShot are the services that do one thing and end.
var oneShot = map[string]bool{"migrate": true, "starter": true, "demo": true}

// load reads the file as docker compose does: schema, interpolation, extensions,
// normalisation and the consistency of references.
func load(t *testing.T, env ...string) *types.Project {
	t.Helper()
	options, err := cli.NewProjectOptions(
		[]string{filepath.Join(root, "docker-compose.yml")},
		cli.WithEnv(env), cli.WithProfiles([]string{"*"}), cli.WithConsistency(true))
	require.NoError(t, err)
	project, err := options.LoadProject(t.Context())
	require.NoError(t, err)
	return project
}

func each(t *testing.T, check func(t *testing.T, s types.ServiceConfig)) {
	t.Helper()
	for name, service := range load(t).Services {
		t.Run(name, func(t *testing.T) { check(t, service) })
	}
}

func TestCompose_HasEveryPart(t *testing.T) {
	assert.ElementsMatch(t,
		[]string{"postgres", "temporal", "localstack", "migrate", "worker", "starter", "demo"},
		load(t).ServiceNames())
}

func TestCompose_OnlyTheDemoNeedsAProfile(t *testing.T) {
	each(t, func(t *testing.T, s types.ServiceConfig) {
		if s.Name == "demo" {
			assert.Equal(t, []string{"demo"}, s.Profiles)
			return
		}
		assert.Empty(t, s.Profiles)
	})
}

func TestCompose_EveryImageIsBuiltHereOrPinnedExactly(t *testing.T) {
	exact := regexp.MustCompile(`^[a-z0-9/.-]+:\d+\.\d+[A-Za-z0-9.-]*(@sha256:[0-9a-f]{64})?$`)
	each(t, func(t *testing.T, s types.ServiceConfig) {
		if s.Build == nil {
			assert.Regexp(t, exact, s.Image)
			return
		}
		assert.Contains(t, stages(t), s.Build.Target)
	})
	assert.Equal(t, "localstack/localstack:"+community.Version, load(t).Services["localstack"].Image,
		"the release that interop runs, the last that needs no account")
}

func TestCompose_EveryServiceIsLockedDown(t *testing.T) {
	each(t, func(t *testing.T, s types.ServiceConfig) {
		assert.False(t, s.Privileged)
		assert.Empty(t, s.CapAdd)
		assert.Equal(t, []string{"ALL"}, s.CapDrop)
		assert.Contains(t, s.SecurityOpt, "no-new-privileges:true")
		assert.Empty(t, s.NetworkMode)
		assert.NotContains(t, []string{"", "0", "root", "0:0"}, s.User)
		assert.Equal(t, s.Name != "localstack", s.ReadOnly, "read-only, but for LocalStack")
		for _, port := range s.Ports {
			assert.Equal(t, "127.0.0.1", port.HostIP, "port %s", port.Published)
		}
		for _, v := range s.Volumes {
			assert.NotContains(t, v.Source, "docker.sock")
		}
	})
}

func TestCompose_OnlyServicesThatKeepRunningHaveAHealthCheck(t *testing.T) {
	each(t, func(t *testing.T, s types.ServiceConfig) {
		if oneShot[s.Name] {
			assert.Nil(t, s.HealthCheck)
			assert.Contains(t, []string{"", "no"}, s.Restart, "it must end")
			return
		}
		require.NotNil(t, s.HealthCheck)
		assert.False(t, s.HealthCheck.Disable)
		require.NotEmpty(t, s.HealthCheck.Test)
		assert.Contains(t, []string{"CMD", "CMD-SHELL"}, s.HealthCheck.Test[0])
		assert.NotEmpty(t, s.Restart)
	})
}

func TestCompose_ADependencyWaitsForHealthOrForTheEnd(t *testing.T) {
	each(t, func(t *testing.T, s types.ServiceConfig) {
		for name, d := range s.DependsOn {
			want := types.ServiceConditionHealthy
			if oneShot[name] {
				want = types.ServiceConditionCompletedSuccessfully
			}
			assert.Equal(t, want, d.Condition, "on %s", name)
			assert.True(t, d.Required)
		}
		if s.Build != nil {
			assert.NotEmpty(t, s.DependsOn, "ours all need at least the database")
		}
	})
}

func TestCompose_EveryMountedFileIsInTheRepositoryAndReadOnly(t *testing.T) {
	mounted := 0
	each(t, func(t *testing.T, s types.ServiceConfig) {
		for _, v := range s.Volumes {
			if v.Type != types.VolumeTypeBind {
				continue
			}
			mounted++
			assert.True(t, v.ReadOnly, v.Target)
			_, err := os.Stat(v.Source)
			assert.NoError(t, err)
		}
	})
	assert.Equal(t, 3, mounted, "topology, init hook, outbox.yaml")
}

func TestCompose_PathsInTheEnvironmentAreMounted(t *testing.T) {
	for service, variable := range map[string]string{"worker": "OUTBOX_CONFIG", "localstack": "TOPOLOGY_FILE"} {
		s := load(t).Services[service]
		require.NotNil(t, s.Environment[variable])
		var targets []string
		for _, v := range s.Volumes {
			targets = append(targets, v.Target)
		}
		assert.Contains(t, targets, *s.Environment[variable])
	}
}

func TestCompose_APortThatIsTakenCanBeMoved(t *testing.T) {
	project := load(t, "POSTGRES_PORT=15432", "TEMPORAL_PORT=17233", "TEMPORAL_UI_PORT=18233", "AWS_PORT=14566")
	var published []string
	for _, s := range project.Services {
		for _, port := range s.Ports {
			published = append(published, port.Published)
		}
	}
	assert.ElementsMatch(t, []string{"15432", "17233", "18233", "14566"}, published)
}

func TestCompose_ThePasswordIsTheSameOnBothSides(t *testing.T) {
	project := load(t, "POSTGRES_PASSWORD=other")
	assert.Equal(t, "other", *project.Services["postgres"].Environment["POSTGRES_PASSWORD"])
	for _, name := range []string{"migrate", "worker", "starter", "demo"} {
		assert.Contains(t, *project.Services[name].Environment["DATABASE_URL"], "outbox:other@postgres", name)
	}
}

func stages(t *testing.T) (names []string) {
	t.Helper()
	for _, m := range regexp.MustCompile(`(?m)^FROM \S+ AS (\S+)$`).FindAllStringSubmatch(dockerfile(t), -1) {
		names = append(names, m[1])
	}
	return names
}

func dockerfile(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "Dockerfile"))
	require.NoError(t, err)
	return strings.ReplaceAll(string(text), "\r\n", "\n")
}
