package check

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclparse"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/hashicorp/hcl/v2/hclwrite"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// terraform is the module's files by their names.
func terraform(t *testing.T) map[string]string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("..", "terraform", "*.tf"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	texts := map[string]string{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		texts[filepath.Base(file)] = string(text)
	}
	return texts
}

func TestTerraform_IsFormattedAndRefersToWhatItDeclares(t *testing.T) {
	for _, problem := range examineTerraform(terraform(t)) {
		t.Error(problem)
	}
}

func TestTerraform_AMistakeIsFound(t *testing.T) {
	for what, change := range map[string]func(files map[string]string){
		"a brace too few": func(f map[string]string) { f["role.tf"] = strings.TrimSuffix(f["role.tf"], "}\n") },
		"an indent of four": func(f map[string]string) {
			f["outputs.tf"] = strings.Replace(f["outputs.tf"], "  value", "    value", 1)
		},
		"an unknown variable": func(f map[string]string) {
			f["role.tf"] = strings.Replace(f["role.tf"], "var.prefix", "var.prefixes", 1)
		},
		"an unknown local": func(f map[string]string) {
			f["role.tf"] = strings.Replace(f["role.tf"], "local.trusted", "local.trust", 1)
		},
		"an unknown resource": func(f map[string]string) {
			f["outputs.tf"] = strings.Replace(f["outputs.tf"], "aws_iam_policy.publish", "aws_iam_policy.send", 1)
		},
		"a variable that nobody uses": func(f map[string]string) { f["variables.tf"] += "\nvariable \"unused\" {\n  type = string\n}\n" },
		"an unknown function": func(f map[string]string) {
			f["outputs.tf"] = strings.Replace(f["outputs.tf"], "yamlencode", "yamlencoded", 1)
		},
	} {
		files := terraform(t)
		change(files)
		require.NotEqual(t, terraform(t), files, what)
		assert.NotEmpty(t, examineTerraform(files), what)
	}
}

// functions of Terraform that the module uses.
var functions = map[string]bool{"concat": true, "jsonencode": true, "length": true, "merge": true, "one": true, "yamlencode": true}

// examineTerraform returns what terraform fmt and validate would find, as far as that can be
// seen without the schemas of a provider.
func examineTerraform(files map[string]string) (problems []string) {
	declared, used := map[string]bool{}, map[string]bool{}
	var references []hcl.Traversal
	parser := hclparse.NewParser()
	for name, text := range files {
		if string(hclwrite.Format([]byte(text))) != text {
			problems = append(problems, name+" is not formatted: terraform fmt")
		}
		file, faults := parser.ParseHCL([]byte(text), name)
		if faults.HasErrors() {
			problems = append(problems, faults.Error())
			continue
		}
		body, _ := file.Body.(*hclsyntax.Body)
		for _, block := range body.Blocks {
			declare(declared, block)
			if block.Type == "variable" {
				continue // a type is no expression
			}
			references = append(references, freeVariables(block.Body)...)
			_ = hclsyntax.VisitAll(block.Body, func(n hclsyntax.Node) hcl.Diagnostics {
				if call, ok := n.(*hclsyntax.FunctionCallExpr); ok && !functions[call.Name] {
					problems = append(problems, fmt.Sprintf("%s: no function %s", call.Range(), call.Name))
				}
				return nil
			})
		}
	}
	for _, r := range references {
		name := referred(r)
		if name == "" {
			continue
		}
		used[name] = true
		if !declared[name] {
			problems = append(problems, fmt.Sprintf("%s: %s is not declared", r.SourceRange(), name))
		}
	}
	for name := range declared {
		if strings.HasPrefix(name, "var.") && !used[name] {
			problems = append(problems, name+" is declared and never used")
		}
	}
	return problems
}

func declare(declared map[string]bool, block *hclsyntax.Block) {
	switch block.Type {
	case "variable":
		declared["var."+block.Labels[0]] = true
	case "locals":
		for name := range block.Body.Attributes {
			declared["local."+name] = true
		}
	case "resource":
		declared[strings.Join(block.Labels, ".")] = true
	case "data":
		declared["data."+strings.Join(block.Labels, ".")] = true
	}
}

// freeVariables are the references in a body, without the variables of its own for
// expressions.
func freeVariables(body *hclsyntax.Body) (all []hcl.Traversal) {
	for _, attribute := range body.Attributes {
		all = append(all, attribute.Expr.Variables()...)
	}
	for _, block := range body.Blocks {
		all = append(all, freeVariables(block.Body)...)
	}
	return all
}

// referred is the name that a reference stands for, or nothing where Terraform gives it.
func referred(r hcl.Traversal) string {
	steps := []string{r.RootName()}
	for _, s := range r[1:] {
		if a, ok := s.(hcl.TraverseAttr); ok {
			steps = append(steps, a.Name)
		}
	}
	length := 2
	switch steps[0] {
	case "each", "count":
		return ""
	case "data":
		length = 3
	}
	return strings.Join(steps[:min(length, len(steps))], ".")
}

const (
	topicsJSON = `{"orders": {"subscriptions": {"billing": {}, "shipping": {"filter": {"event_type": ["OrderPaid"]}}}},
		"ledger": {"fifo": true, "subscriptions": {"bookkeeping": {}}}}`
	queuesJSON  = `{"inventory": {"fifo": true}}`
	serviceJSON = `{"cluster": "c", "subnets": ["s"], "security_groups": ["g"], "temporal_address": "t:7233", "temporal_namespace": "n",
		"database_url": "arn:worker", "owner_url": "arn:owner"}`
)

func planned(t *testing.T, variables map[string]string) plan {
	t.Helper()
	p, err := planTerraform(terraform(t), variables)
	require.NoError(t, err)
	return p
}

func TestTerraform_MakesQueuesWithDeadLettersAndRoutesThem(t *testing.T) {
	p := planned(t, map[string]string{"topics": topicsJSON, "queues": queuesJSON})
	for _, name := range []string{"orders-billing", "orders-shipping", "ledger-bookkeeping", "inventory"} {
		q := p.instances["aws_sqs_queue.this["+name+"]"]
		require.NotNil(t, q, name)
		assert.Equal(t, "aws_kms_key.this.arn", q["kms_master_key_id"].AsString(), name)
		assert.Equal(t, "aws_sqs_queue.dead["+name+"].arn", at(p.decoded(t, "aws_sqs_queue.this["+name+"]", "redrive_policy"), "deadLetterTargetArn"))
	}
	assert.Equal(t, "outbox-ledger.fifo", p.instances["aws_sns_topic.this[ledger]"]["name"].AsString())
	assert.Equal(t, "outbox-ledger-bookkeeping-dead.fifo", p.instances["aws_sqs_queue.dead[ledger-bookkeeping]"]["name"].AsString())
	assert.Equal(t, map[string]any{"event_type": []any{"OrderPaid"}}, p.decoded(t, "aws_sns_topic_subscription.this[orders-shipping]", "filter_policy"))
	assert.True(t, p.instances["aws_sns_topic_subscription.this[orders-billing]"]["filter_policy"].IsNull())
	assert.True(t, p.instances["aws_sns_topic_subscription.this[orders-billing]"]["raw_message_delivery"].True())
	assert.JSONEq(t, `{"topics": {
		"orders": {"sns": "aws_sns_topic.this[orders].arn"},
		"ledger": {"sns": "aws_sns_topic.this[ledger].arn"},
		"inventory": {"sqs": "aws_sqs_queue.this[inventory].url"}}}`, p.outputs["routes"].AsString())
	assert.NotContains(t, p.instances, "aws_iam_role.worker[0]", "nobody was named who may take it")
}

func TestTerraform_TheRoleIsForThoseThatAreNamed(t *testing.T) {
	for name, c := range map[string]struct{ variable, value, principal, action string }{
		"Pod Identity": {"pod_identity", `{"cluster": "c"}`, "pods.eks.amazonaws.com", "sts:TagSession"},
		"IRSA":         {"irsa", `{"provider_arn": "arn:p", "issuer": "oidc.example/id/1"}`, "arn:p", "sts:AssumeRoleWithWebIdentity"},
		"ECS":          {"service", serviceJSON, "ecs-tasks.amazonaws.com", "sts:AssumeRole"},
	} {
		p := planned(t, map[string]string{"topics": topicsJSON, "queues": queuesJSON, c.variable: c.value})
		trusted, _ := at(p.decoded(t, "aws_iam_role.worker[0]", "assume_role_policy"), "Statement").([]any)
		require.Len(t, trusted, 1, name)
		assert.Contains(t, fmt.Sprint(at(trusted[0], "Principal")), c.principal, name)
		assert.Contains(t, at(trusted[0], "Action"), c.action, name)
		assert.NotEmpty(t, at(trusted[0], "Condition"), name)
	}
	irsa := planned(t, map[string]string{"irsa": `{"provider_arn": "arn:p", "issuer": "oidc.example/id/1"}`})
	assert.Contains(t, irsa.instances["aws_iam_role.worker[0]"]["assume_role_policy"].AsString(),
		`"oidc.example/id/1:sub":"system:serviceaccount:outbox-relay:outbox-relay"`)
}

// container is the one of the relay in a task, in the words of CloudFormation.
func (p plan) container(t *testing.T, task string) map[string]any {
	t.Helper()
	containers, _ := p.decoded(t, "aws_ecs_task_definition.this["+task+"]", "container_definitions").([]any)
	require.Len(t, containers, 2)
	assert.Equal(t, "files", at(containers[0], "name"), task)
	own, _ := capital(containers[1]).(map[string]any)
	return own
}

// capital writes the names of fields as CloudFormation does.
func capital(v any) any {
	switch v := v.(type) {
	case []any:
		all := make([]any, len(v))
		for i := range v {
			all[i] = capital(v[i])
		}
		return all
	case map[string]any:
		all := map[string]any{}
		for key := range v {
			all[strings.ToUpper(key[:1])+key[1:]] = capital(v[key])
		}
		return all
	}
	return v
}

func TestTerraform_TheTasksAreThoseOfTheTemplate(t *testing.T) {
	p := planned(t, map[string]string{"topics": topicsJSON, "service": serviceJSON})
	containers := 0
	each(template(t, "worker.yaml"), func(m map[string]any) {
		name := text(m["Name"])
		if m["Essential"] != true {
			return
		}
		containers++
		own := p.container(t, name)
		for _, field := range []string{"Command", "User", "ReadonlyRootFilesystem", "DependsOn", "MountPoints"} {
			assert.Equal(t, m[field], own[field], "%s: %s", name, field)
		}
		assert.Equal(t, at(m, "LinuxParameters", "Capabilities"), at(own, "LinuxParameters", "Capabilities"), name)
		assert.ElementsMatch(t, named(m["Environment"]), named(own["Environment"]), name)
		if name == "worker" {
			assert.EqualValues(t, m["StopTimeout"], own["StopTimeout"])
			assert.EqualValues(t, m["Memory"], own["Memory"])
			assert.Equal(t, at(m, "HealthCheck", "Command"), at(own, "HealthCheck", "Command"))
			assert.EqualValues(t, at(m, "HealthCheck", "Retries"), at(own, "HealthCheck", "Retries"))
		}
	})
	require.Equal(t, 3, containers)
	assert.Equal(t, "aws_iam_role.worker[0].arn", p.instances["aws_ecs_task_definition.this[worker]"]["task_role_arn"].AsString())
	assert.True(t, p.instances["aws_ecs_task_definition.this[migrate]"]["task_role_arn"].IsNull())
	assert.Equal(t, "aws_ecs_task_definition.this[migrate].arn", p.outputs["migrate_task"].AsString())
}

func TestTerraform_TheTasksReadTheSecretsOfTheTemplate(t *testing.T) {
	inTemplate := map[string]any{}
	each(template(t, "worker.yaml"), func(m map[string]any) {
		if m["Essential"] == true {
			inTemplate[text(m["Name"])] = m["Secrets"]
		}
	})
	require.Len(t, inTemplate, 3)
	for login, c := range temporalLogins {
		service := serviceJSON
		if c.service != "" {
			service = strings.Replace(service, `{`, `{`+c.service+`, `, 1)
		}
		p := planned(t, map[string]string{"topics": topicsJSON, "service": service})
		for name, secrets := range inTemplate {
			assert.Equal(t, named(given(secrets, c.conditions...)), named(p.container(t, name)["Secrets"]), "%s: %s", login, name)
		}
		read := list(at(p.decoded(t, "aws_iam_role_policy.secrets[0]", "policy"), "Statement"))
		require.Len(t, read, 2)
		assert.Len(t, at(read[0], "Resource"), 2+len(c.secrets), login)
		assert.Len(t, at(read[1], "Resource"), 1+c.parameters, login)
	}
}

func TestTerraform_AnUpgradeCanMigrateBeforeTheWorkersChange(t *testing.T) {
	p := planned(t, map[string]string{"topics": topicsJSON, "service": strings.Replace(serviceJSON, `{`, `{"image": "r:1", "migrate_image": "r:2", "files_image": "f", `, 1)})
	for task, image := range map[string]string{"worker": "r:1", "starter": "r:1", "migrate": "r:2"} {
		assert.Equal(t, image, p.container(t, task)["Image"], task)
		containers := p.decoded(t, "aws_ecs_task_definition.this["+task+"]", "container_definitions").([]any)
		assert.Equal(t, "f", at(containers[0], "image"), task)
	}
	p = planned(t, map[string]string{"topics": topicsJSON, "service": serviceJSON})
	assert.Equal(t, p.container(t, "worker")["Image"], p.container(t, "migrate")["Image"])
	assert.Equal(t, "aws_cloudwatch_log_group.this[0].name", p.outputs["log_group"].AsString())
}

const userARN = "arn:aws:rds-db:eu-central-1:111122223333:dbuser:cluster-A/relay"

func TestTerraform_WithIAMDatabaseAuthenticationProgramsLogInByToken(t *testing.T) {
	byPassword := planned(t, map[string]string{"topics": topicsJSON, "service": serviceJSON})
	byIAM := planned(t, map[string]string{"topics": topicsJSON, "service": strings.Replace(serviceJSON, `{`, `{"database_user_arn": "`+userARN+`", `, 1)})
	for _, task := range []string{"worker", "starter"} {
		assert.Contains(t, byPassword.container(t, task)["Environment"], map[string]any{"Name": "OUTBOX_DATABASE_AUTH", "Value": "password"}, task)
		assert.Contains(t, byIAM.container(t, task)["Environment"], map[string]any{"Name": "OUTBOX_DATABASE_AUTH", "Value": "iam"}, task)
		address := "aws_iam_role_policy.database[" + task + "]"
		assert.NotContains(t, byPassword.instances, address)
		assert.Contains(t, fmt.Sprint(byIAM.decoded(t, address, "policy")), "Action:[rds-db:connect] Effect:Allow Resource:["+userARN+"]")
	}
	assert.True(t, byPassword.instances["aws_ecs_task_definition.this[starter]"]["task_role_arn"].IsNull())
	assert.Equal(t, "aws_iam_role.starter[0].arn", byIAM.instances["aws_ecs_task_definition.this[starter]"]["task_role_arn"].AsString())
	assert.True(t, byIAM.instances["aws_ecs_task_definition.this[migrate]"]["task_role_arn"].IsNull())
}

// named are the names in a list of objects.
func named(v any) (names []any) {
	list, _ := v.([]any)
	for i := range list {
		names = append(names, at(list[i], "Name"))
	}
	return names
}
