package check

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"cel.dev/cel-go/cel"
	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// typed are the kinds that have Go types: a field that the type does not have is an error,
// as kubectl apply --validate=strict finds it.
var typed = map[string]any{
	"v1 ConfigMap":                  corev1.ConfigMap{},
	"v1 Namespace":                  corev1.Namespace{},
	"v1 Service":                    corev1.Service{},
	"v1 ServiceAccount":             corev1.ServiceAccount{},
	"apps/v1 Deployment":            appsv1.Deployment{},
	"batch/v1 Job":                  batchv1.Job{},
	"policy/v1 PodDisruptionBudget": policyv1.PodDisruptionBudget{},

	// Custom resources of the Prometheus operator.
	"monitoring.coreos.com/v1 ServiceMonitor": monitoringv1.ServiceMonitor{},
	"monitoring.coreos.com/v1 PrometheusRule": monitoringv1.PrometheusRule{},
}

// validator knows every kind that may be in a manifest.
type validator struct {
	builtin map[string]*jsonschema.Schema
	custom  map[string]*definition
}

func newValidator(t *testing.T) validator {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", "crds", "*.yaml"))
	require.NoError(t, err)
	require.Len(t, files, 3)
	v := validator{builtin: map[string]*jsonschema.Schema{}, custom: map[string]*definition{}}
	for _, file := range files {
		v.add(t, file)
	}
	compiler := jsonschema.NewCompiler()
	for kind, example := range typed {
		if !strings.HasPrefix(kind, "monitoring.") { // a custom resource, whose definition is large
			v.builtin[kind] = compileBuiltin(t, compiler, example)
		}
	}
	return v
}

// compileBuiltin compiles Kubernetes' own schema of a kind: it knows which fields must be
// there, which a type does not say.
func compileBuiltin(t *testing.T, compiler *jsonschema.Compiler, example any) *jsonschema.Schema {
	t.Helper()
	of := reflect.TypeOf(example)
	name := strings.ReplaceAll(strings.Replace(of.PkgPath(), "k8s.io/", "io.k8s.", 1), "/", ".") + "." + of.Name()
	schema, err := compiler.Compile(filepath.Join("testdata", "kubernetes", "v1.37.json") + "#/$defs/" + name)
	require.NoError(t, err, name)
	return schema
}

// validate returns every reason why the API server would refuse an object, as far as its
// schema says so.
func (v validator) validate(o object) error {
	if d, known := v.custom[o.kind()]; known {
		return d.validate(o.fields)
	}
	example, known := typed[o.kind()]
	if !known {
		return fmt.Errorf("%q is of no kind that is checked here", o.kind())
	}
	if err := yaml.UnmarshalStrict(o.text, reflect.New(reflect.TypeOf(example)).Interface()); err != nil {
		return err
	}
	if schema, known := v.builtin[o.kind()]; known {
		return schema.Validate(o.fields)
	}
	return nil
}

// definition is a custom resource's schema.
type definition struct {
	schema *jsonschema.Schema
	rules  map[string]any // the schema again, for its rules in CEL
	env    *cel.Env
}

func (v validator) add(t *testing.T, file string) {
	t.Helper()
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	var crd struct {
		Spec struct {
			Group    string
			Names    struct{ Kind string }
			Versions []struct {
				Name   string
				Schema struct{ OpenAPIV3Schema map[string]any }
			}
		}
	}
	require.NoError(t, yaml.Unmarshal(text, &crd))
	env, err := cel.NewEnv(cel.Variable("self", cel.DynType))
	require.NoError(t, err)
	for _, version := range crd.Spec.Versions {
		schema := version.Schema.OpenAPIV3Schema
		closed, isObject := shut(schema).(map[string]any)
		require.True(t, isObject)
		compiler := jsonschema.NewCompiler()
		compiler.DefaultDraft(jsonschema.Draft7)
		require.NoError(t, compiler.AddResource(file, closed))
		compiled, err := compiler.Compile(file)
		require.NoError(t, err, file)
		v.custom[crd.Spec.Group+"/"+version.Name+" "+crd.Spec.Names.Kind] = &definition{compiled, schema, env}
	}
}

// shut closes a structural schema: what it does not name, the API server prunes.
func shut(v any) any {
	switch v := v.(type) {
	case []any:
		for i := range v {
			v[i] = shut(v[i])
		}
	case map[string]any:
		for key := range v {
			v[key] = shut(v[key])
		}
		_, names := v["properties"].(map[string]any)
		_, open := v["additionalProperties"]
		if names && !open && v["x-kubernetes-preserve-unknown-fields"] != true && v["type"] == "object" {
			v["additionalProperties"] = false
		}
	}
	return v
}

func (d *definition) validate(fields map[string]any) error {
	if err := d.schema.Validate(fields); err != nil {
		return err
	}
	// A definition says of metadata that it is an object; the API server knows the rest.
	metadata, err := yaml.Marshal(fields["metadata"])
	if err != nil {
		return err
	}
	if err := yaml.UnmarshalStrict(metadata, &metav1.ObjectMeta{}); err != nil {
		return err
	}
	return d.check(d.rules, fields, text(fields["kind"]))
}

// check applies the rules of a schema and of everything below it.
func (d *definition) check(schema map[string]any, value any, where string) error {
	var problems []error
	rules, _ := schema["x-kubernetes-validations"].([]any)
	for _, r := range rules {
		rule := text(at(r, "rule"))
		if ok, err := d.holds(rule, value); err != nil || !ok {
			problems = append(problems, fmt.Errorf("%s: %s (%s) %w", where, text(at(r, "message")), rule, errors.Join(err)))
		}
	}
	switch value := value.(type) {
	case map[string]any:
		for name, v := range value {
			if below, ok := at(schema, "properties", name).(map[string]any); ok {
				problems = append(problems, d.check(below, v, where+"."+name))
			}
		}
	case []any:
		if below, ok := schema["items"].(map[string]any); ok {
			for i, v := range value {
				problems = append(problems, d.check(below, v, fmt.Sprintf("%s[%d]", where, i)))
			}
		}
	}
	return errors.Join(problems...)
}

func (d *definition) holds(rule string, self any) (bool, error) {
	ast, issues := d.env.Compile(rule)
	if issues.Err() != nil {
		return false, issues.Err()
	}
	program, err := d.env.Program(ast)
	if err != nil {
		return false, err
	}
	out, _, err := program.Eval(map[string]any{"self": whole(self)})
	if err != nil {
		return false, err
	}
	return out.Value() == true, nil
}

// whole makes integers of numbers that are, as CEL tells them apart.
func whole(v any) any {
	switch v := v.(type) {
	case float64:
		if v == math.Trunc(v) {
			return int64(v)
		}
	case []any:
		all := make([]any, len(v))
		for i := range v {
			all[i] = whole(v[i])
		}
		return all
	case map[string]any:
		all := make(map[string]any, len(v))
		for key := range v {
			all[key] = whole(v[key])
		}
		return all
	}
	return v
}
