package check

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/temporal-outbox/relay/internal/timing"
)

// template reads a CloudFormation template. Functions such as !Ref become their arguments.
func template(t *testing.T, name string) map[string]any {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "aws", name))
	require.NoError(t, err)
	var fields map[string]any
	require.NoError(t, yaml.Unmarshal(text, &fields))
	return fields
}

// each calls f with every object in a value.
func each(v any, f func(map[string]any)) {
	switch v := v.(type) {
	case []any:
		for i := range v {
			each(v[i], f)
		}
	case map[string]any:
		f(v)
		for key := range v {
			each(v[key], f)
		}
	}
}

// statements are the actions of each statement of the publisher's policy, by its Sid.
func statements(v any) map[string][]string {
	all := map[string][]string{}
	each(v, func(m map[string]any) {
		actions, _ := m["Action"].([]any)
		for _, action := range actions {
			if sid := text(m["Sid"]); sid != "" {
				all[sid] = append(all[sid], text(action))
			}
		}
	})
	return all
}

// documented is the policy of docs/security.md, without the statements that only names need.
func documented(t *testing.T) map[string][]string {
	t.Helper()
	document, err := os.ReadFile(filepath.Join(docs, "security.md"))
	require.NoError(t, err)
	block := regexp.MustCompile("(?s)```json\n(.*?)```").FindSubmatch(document)
	require.NotNil(t, block)
	var policy any
	require.NoError(t, json.Unmarshal(block[1], &policy))
	all := statements(policy)
	for _, byName := range []string{"FindTopicsByName", "FindQueuesByName"} {
		require.Contains(t, all, byName)
		delete(all, byName)
	}
	require.Len(t, all, 5)
	return all
}

func TestRoles_MayDoWhatTheDocumentSaysAndNoMore(t *testing.T) {
	want := documented(t)
	require.Equal(t, want, statements(template(t, "eks.yaml")["Resources"]))
	require.Equal(t, want, statements(template(t, "worker.yaml")["Resources"]))

	p := planned(t, map[string]string{"topics": topicsJSON, "queues": queuesJSON})
	require.Equal(t, want, statements(p.decoded(t, "aws_iam_policy.publish", "policy")), "of the Terraform module")
}

func TestECS_AWorkerIsGivenTheTimeThatItTakesToStop(t *testing.T) {
	var stop []int
	each(template(t, "worker.yaml"), func(m map[string]any) {
		if seconds, ok := m["StopTimeout"].(int); ok && m["Name"] == "worker" {
			stop = append(stop, seconds)
		}
	})
	require.Len(t, stop, 1)
	assert.Greater(t, time.Duration(stop[0])*time.Second, timing.StopsWithin)
	assert.LessOrEqual(t, stop[0], 120, "Fargate allows no more")
}

// The worker sets the limit of its heap from that of its container, which ECS sets only if the container has one.
func TestECS_TheWorkersContainerHasTheMemoryOfItsTask(t *testing.T) {
	tested := false
	each(template(t, "worker.yaml"), func(m map[string]any) {
		containers, _ := m["ContainerDefinitions"].([]any)
		for _, c := range containers {
			if at(c, "Name") == "worker" {
				assert.Equal(t, text(m["Memory"]), fmt.Sprint(at(c, "Memory")))
				tested = true
			}
		}
	})
	require.True(t, tested)
}

func TestECS_TasksAreUnprivileged(t *testing.T) {
	containers := 0
	each(template(t, "worker.yaml"), func(m map[string]any) {
		name := text(m["Name"])
		if m["Essential"] == nil {
			return
		}
		assert.Equal(t, true, m["ReadonlyRootFilesystem"], name)
		if name == "files" {
			return
		}
		containers++
		assert.Equal(t, "65532:65532", m["User"], name)
		assert.Equal(t, []any{"ALL"}, at(m, "LinuxParameters", "Capabilities", "Drop"), name)
	})
	require.Equal(t, 3, containers)
}

func TestMessaging_EveryQueueIsEncryptedAndHasADeadLetterQueue(t *testing.T) {
	resources, _ := template(t, "messaging.yaml")["Resources"].(map[string]any)
	queues, subscriptions := 0, 0
	for name, r := range resources {
		properties := at(r, "Properties")
		switch text(at(r, "Type")) {
		case "AWS::SQS::Queue":
			queues++
			assert.Equal(t, "Key.Arn", at(properties, "KmsMasterKeyId"), name)
			isDead := strings.HasSuffix(name, "Dead")
			assert.Equal(t, !isDead, at(properties, "RedrivePolicy") != nil, name)
		case "AWS::SNS::Topic":
			assert.Equal(t, "Key.Arn", at(properties, "KmsMasterKeyId"), name)
		case "AWS::SNS::Subscription":
			subscriptions++
			assert.Equal(t, true, at(properties, "RawMessageDelivery"), name)
			assert.NotNil(t, at(properties, "RedrivePolicy"), name)
		}
	}
	require.Equal(t, 8, queues)
	require.Equal(t, 3, subscriptions)
}

func TestECS_EveryImageCanBeFromARegistryOfYourOwn(t *testing.T) {
	images := map[string]int{}
	each(template(t, "worker.yaml")["Resources"], func(m map[string]any) {
		if m["Essential"] == nil {
			return
		}
		for _, image := range append([]any{m["Image"]}, list(m["Image"])...) {
			if name := text(image); name != "" {
				images[name]++
			}
		}
	})
	require.Equal(t, map[string]int{"FilesImage": 3, "Image": 3, "HasMigrateImage": 1, "MigrateImage": 1}, images)
}

// given is a list as CloudFormation makes it where these conditions hold and no others. !If is
// a list of three in a template that was read.
func given(v any, conditions ...string) (all []any) {
	for _, one := range list(v) {
		if choice := list(one); len(choice) == 3 {
			one = choice[2]
			if slices.Contains(conditions, text(choice[0])) {
				one = choice[1]
			}
		}
		if text(one) != "AWS::NoValue" {
			all = append(all, one)
		}
	}
	return all
}

func list(v any) []any {
	all, _ := v.([]any)
	return all
}

// A default would be right in one region, and silently wrong in all others.
func TestECS_TheAddressOfTemporalHasNoDefault(t *testing.T) {
	address := at(template(t, "worker.yaml"), "Parameters", "TemporalAddress")
	require.NotNil(t, address)
	require.NotContains(t, address, "Default")
}

func TestECS_WithIAMDatabaseAuthenticationWorkerAndStarterMayLogIn(t *testing.T) {
	resources := at(template(t, "worker.yaml"), "Resources")
	for _, name := range []string{"StarterRole", "DatabaseLogin"} {
		assert.Equal(t, "LogsInByIAM", at(resources, name, "Condition"), name)
	}
	assert.Equal(t, []any{"TaskRole", "StarterRole"}, at(resources, "DatabaseLogin", "Properties", "Roles"))
	assert.Equal(t, []any{"LogsInByIAM", "StarterRole.Arn", "AWS::NoValue"}, at(resources, "Starter", "Properties", "TaskRoleArn"))
	for _, task := range []string{"Worker", "Starter"} {
		containers := list(at(resources, task, "Properties", "ContainerDefinitions"))
		require.Len(t, containers, 2)
		auth := map[string]any{"Name": "OUTBOX_DATABASE_AUTH", "Value": []any{"LogsInByIAM", "iam", "password"}}
		assert.Contains(t, at(containers[1], "Environment"), auth, task)
		assert.Contains(t, named(at(containers[1], "Environment")), "AWS_REGION", task)
	}
}

// temporalLogins are the ways to log in to Temporal: the conditions of the template, the fields
// of the module's variable service, the variables of each task, and the secrets and parameters that
// ECS has to read for them.
var temporalLogins = map[string]struct {
	conditions []string
	service    string
	variables  []any
	secrets    []any
	parameters int
}{
	"nothing": {},
	"an API key": {
		[]string{"HasApiKey"},
		`"temporal_api_key": "arn:key"`,
		[]any{"TEMPORAL_API_KEY"},
		[]any{"TemporalApiKeySecret"},
		0,
	},
	"mutual TLS": {
		[]string{"HasTemporalTls"},
		`"temporal_tls": "arn:tls"`,
		[]any{"TEMPORAL_TLS_CLIENT_CERT_DATA", "TEMPORAL_TLS_CLIENT_KEY_DATA"},
		[]any{"TemporalTlsSecret"},
		0,
	},
	"mutual TLS and a CA of one's own": {
		[]string{"HasTemporalTls", "HasTemporalCa"},
		`"temporal_tls": "arn:tls", "temporal_ca_parameter": "/ca"`,
		[]any{"TEMPORAL_TLS_CLIENT_CERT_DATA", "TEMPORAL_TLS_CLIENT_KEY_DATA", "TEMPORAL_TLS_SERVER_CA_CERT_DATA"},
		[]any{"TemporalTlsSecret"},
		1,
	},
}

// TEMPORAL_API_KEY turns TLS on, so a Temporal without both can only be reached if it is not set.
func TestECS_WorkerAndStarterLogInToTemporalByWhatIsGiven(t *testing.T) {
	fields := template(t, "worker.yaml")
	for _, parameter := range []string{"TemporalApiKeySecret", "TemporalTlsSecret", "TemporalCaParameter"} {
		assert.Equal(t, "", at(fields, "Parameters", parameter, "Default"), parameter)
	}
	read := list(at(list(at(fields, "Resources", "ExecutionRole", "Properties", "Policies"))[0], "PolicyDocument", "Statement"))
	require.Len(t, read, 2)
	for name, c := range temporalLogins {
		for _, task := range []string{"Worker", "Starter"} {
			containers := list(at(fields, "Resources", task, "Properties", "ContainerDefinitions"))
			require.Len(t, containers, 2)
			assert.Equal(t, append([]any{"DATABASE_URL"}, c.variables...), named(given(at(containers[1], "Secrets"), c.conditions...)), "%s: %s", name, task)
		}
		assert.Equal(t, append([]any{"DatabaseSecret", "OwnerSecret"}, c.secrets...), given(at(read[0], "Resource"), c.conditions...), name)
		assert.Len(t, given(at(read[1], "Resource"), c.conditions...), 1+c.parameters, name)
	}
}

// IAM refuses a statement without a resource.
func TestRoles_HaveNoStatementForWhatIsNotGiven(t *testing.T) {
	for _, name := range []string{"eks.yaml", "worker.yaml"} {
		fields := template(t, name)
		conditional := map[string]string{}
		var visit func(v any)
		visit = func(v any) {
			switch v := v.(type) {
			case []any:
				if len(v) == 3 {
					if sid := text(at(v[1], "Sid")); sid != "" {
						conditional[sid] = text(v[0])
					}
				}
				for i := range v {
					visit(v[i])
				}
			case map[string]any:
				for key := range v {
					visit(v[key])
				}
			}
		}
		visit(fields["Resources"])
		require.Equal(t, map[string]string{
			"PublishToTopics": "HasTopics", "CheckSubscriptions": "HasTopics",
			"SendToQueues": "HasQueues", "UseKeysOfEncryptedDestinations": "HasKeys",
		}, conditional, name)
		for _, arns := range []string{"TopicArns", "QueueArns", "KeyArns"} {
			assert.Empty(t, at(fields, "Parameters", arns, "Default"), "%s: %s", name, arns)
			assert.Contains(t, at(fields, "Parameters", arns), "Default", "%s: %s", name, arns)
		}
	}
}

func TestEKS_WithIAMDatabaseAuthenticationTheWorkersMayLogIn(t *testing.T) {
	fields := template(t, "eks.yaml")
	assert.Equal(t, "", at(fields, "Parameters", "DatabaseUserArn", "Default"))
	all := at(fields, "Resources", "PublishPolicy", "Properties", "PolicyDocument", "Statement")
	login := map[string]any{"Effect": "Allow", "Action": []any{"rds-db:connect"}, "Resource": "DatabaseUserArn"}
	assert.Contains(t, given(all, "LogsInByIAM"), login)
	assert.NotContains(t, given(all), login)
}

func TestEKS_WithoutAClusterThereIsAPolicyAndNoRole(t *testing.T) {
	resources := at(template(t, "eks.yaml"), "Resources")
	assert.Equal(t, "PodIdentity", at(resources, "Role", "Condition"))
	assert.Equal(t, "PodIdentity", at(resources, "Association", "Condition"))
	assert.Nil(t, at(resources, "PublishPolicy", "Condition"))
}

func TestTemplates_StartTheImageOfTheNewestVersion(t *testing.T) {
	images := []string{text(at(template(t, "worker.yaml"), "Parameters", "Image", "Default"))}
	for _, m := range regexp.MustCompile(`"(ghcr\.io/[^"]*)"`).FindAllStringSubmatch(terraform(t)["variables.tf"], -1) {
		images = append(images, m[1])
	}
	require.Equal(t, slices.Repeat([]string{"ghcr.io/temporal-outbox/relay:" + newestVersion(t)}, 2), images)
}
