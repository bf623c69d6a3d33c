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
