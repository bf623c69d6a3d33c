package check

import (
	"flag"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/temporal-outbox/relay/internal/timing"
)

var update = flag.Bool("update", false, "write the files that are made from others")

var docs = filepath.Join("..", "..", "docs")

func TestManifests_EachObjectOfEachOverlayFitsItsSchema(t *testing.T) {
	v := newValidator(t)
	seen := map[string]bool{}
	for overlay, all := range renderAll(t) {
		for _, o := range all {
			seen[o.kind()] = true
			assert.NoError(t, v.validate(o), "%s: %s %s", overlay, o.kind(), o.name())
		}
	}
	for kind := range typed {
		assert.True(t, seen[kind], "no overlay has a %s", kind)
	}
	assert.True(t, seen["temporal.io/v1alpha1 WorkerDeployment"])
	assert.True(t, seen["temporal.io/v1alpha1 Connection"])
}

func TestManifests_EveryComponentFitsThePlainDeployment(t *testing.T) {
	v := newValidator(t)
	for _, o := range compose(t, "monitoring", "temporal-mtls") {
		assert.NoError(t, v.validate(o), "%s %s", o.kind(), o.name())
	}
}

// Nobody finds a value of another account by reading what is rendered.
func TestExamples_TheLinesMarkedYoursAreAllThatNamesAnAccount(t *testing.T) {
	mine := strings.NewReplacer("eu-central-1", "xx-west-9", "111122223333", "000000000000", "shop.a1b2c", "mine.z9z9z")
	for _, overlay := range []string{"example", "example-deployment"} {
		for _, isIRSA := range []bool{false, true} {
			var rendered strings.Builder
			for _, o := range edit(t, overlay, func(line string) string {
				if strings.HasSuffix(line, "# yours") {
					line = mine.Replace(line)
				}
				if isIRSA && (line == "# patches:" || strings.Contains(line, "# - path: irsa.yaml") || strings.Contains(line, "#   - path: irsa.yaml")) {
					line = strings.Replace(line, "# ", "", 1)
				}
				return line
			}) {
				rendered.Write(o.text)
			}
			for _, theirs := range []string{"eu-central-1", "111122223333", "a1b2c"} {
				assert.NotContains(t, rendered.String(), theirs, overlay)
			}
			for _, own := range []string{"AWS_REGION: xx-west-9", "xx-west-9.aws.api.temporal.io:7233", "mine.z9z9z", "sns:xx-west-9:000000000000"} {
				assert.Contains(t, rendered.String(), own, overlay)
			}
			assert.Equal(t, isIRSA, strings.Contains(rendered.String(), "role-arn: arn:aws:iam::000000000000:role/"), "%s: a role comes with irsa.yaml only", overlay)
		}
	}
}

// The controller waits for a Secret that is named and not there.
func TestExample_TheConnectionCanDoWithoutAnAPIKey(t *testing.T) {
	v := newValidator(t)
	for uncommented, want := range map[string]string{"": "apiKeySecretRef", "op: remove": "", "op:": "mutualTLSSecretRef"} {
		connection := find(t, edit(t, "example", func(line string) string {
			if uncommented != "" && strings.Contains(line, "# - {"+uncommented) {
				line = strings.Replace(line, "# ", "", 1)
			}
			return line
		}), "temporal.io/v1alpha1 Connection")
		require.NoError(t, v.validate(connection))
		for _, login := range []string{"apiKeySecretRef", "mutualTLSSecretRef"} {
			assert.Equal(t, login == want, at(connection.fields, "spec", login) != nil, "%q: %s", uncommented, login)
		}
	}
}

// A check that finds nothing in a wrong manifest would be worth nothing.
func TestManifests_AWrongFieldIsFoundInEachKind(t *testing.T) {
	v := newValidator(t)
	kinds := map[string]object{}
	for _, all := range renderAll(t) {
		for _, o := range all {
			kinds[o.kind()] = o
		}
	}
	for kind, o := range kinds {
		require.NoError(t, v.validate(o), kind)
		wrong := mutants(o.fields)
		require.NotEmpty(t, wrong, kind)
		for _, m := range wrong {
			text, err := yaml.Marshal(m.fields)
			require.NoError(t, err)
			assert.Error(t, v.validate(parse(t, text)), "%s: %s", kind, m.what)
		}
	}
}

type mutant struct {
	what   string
	fields map[string]any
}

// mutants are an object with one unknown field, at its top and in every object of which a
// schema knows the fields, and with text where a list or an object belongs.
func mutants(o map[string]any) (all []mutant) {
	free := []string{"labels", "annotations", "matchLabels", "data", "selector", "requests", "limits", "metadata"}
	for path := range paths(o, "") {
		if strings.HasPrefix(path, "/spec/rollout/gate/input") { // any workflow's input
			continue
		}
		last := path[strings.LastIndex(path, "/")+1:]
		value := follow(o, path)
		if fields, ok := value.(map[string]any); ok && !slices.Contains(free, last) {
			changed := maps.Clone(fields)
			changed["nonsense"] = "x"
			all = append(all, mutant{path + " has a field nonsense", with(o, path, changed).(map[string]any)})
		}
		if path == "" || last == "metadata" {
			continue
		}
		if _, ok := value.(string); !ok {
			all = append(all, mutant{path + " is nonsense", with(o, path, []any{map[string]any{"nonsense": []any{}}}).(map[string]any)})
		}
	}
	return all
}

// paths are all places in a value, with "/" between.
func paths(v any, at string) map[string]bool {
	all := map[string]bool{at: true}
	switch v := v.(type) {
	case map[string]any:
		for key := range v {
			maps.Copy(all, paths(v[key], at+"/"+strings.ReplaceAll(key, "/", "~")))
		}
	case []any:
		if len(v) > 0 {
			maps.Copy(all, paths(v[0], at+"/0"))
		}
	}
	return all
}

func follow(v any, path string) any {
	for _, key := range strings.Split(path, "/")[1:] {
		switch in := v.(type) {
		case map[string]any:
			v = in[strings.ReplaceAll(key, "~", "/")]
		case []any:
			v = in[0]
		}
	}
	return v
}

// with is a copy of v with another value at a path.
func with(v any, path string, value any) any {
	if path == "" {
		return value
	}
	key, rest, deeper := strings.Cut(path[1:], "/")
	if deeper {
		rest = "/" + rest
	}
	switch in := v.(type) {
	case map[string]any:
		key = strings.ReplaceAll(key, "~", "/")
		changed := maps.Clone(in)
		changed[key] = with(in[key], rest, value)
		return changed
	case []any:
		changed := slices.Clone(in)
		changed[0] = with(in[0], rest, value)
		return changed
	}
	return v
}

func TestManifests_AMissingOrForbiddenFieldIsFound(t *testing.T) {
	v := newValidator(t)
	deployment := find(t, render(t, filepath.Join(manifests, "overlays", "deployment")), "apps/v1 Deployment")
	worker := render(t, filepath.Join(manifests, "overlays", "worker-controller"))
	versioned, connection := find(t, worker, "temporal.io/v1alpha1 WorkerDeployment"), find(t, worker, "temporal.io/v1alpha1 Connection")
	progressive := map[string]any{"strategy": "Progressive"}
	for what, wrong := range map[string]any{
		"no selector":               with(deployment.fields, "/spec", without(deployment.fields["spec"], "selector")),
		"a container without name":  with(deployment.fields, "/spec/template/spec/containers/0", without(follow(deployment.fields, "/spec/template/spec/containers/0"), "name")),
		"a port without number":     with(deployment.fields, "/spec/template/spec/containers/0/ports/0", without(follow(deployment.fields, "/spec/template/spec/containers/0/ports/0"), "containerPort")),
		"a port as text":            with(deployment.fields, "/spec/template/spec/containers/0/ports/0/containerPort", "8080"),
		"no rollout":                with(versioned.fields, "/spec", without(versioned.fields["spec"], "rollout")),
		"an unknown strategy":       with(versioned.fields, "/spec/rollout/strategy", "Sudden"),
		"a rule broken: no steps":   with(versioned.fields, "/spec/rollout", progressive),
		"a rule broken: long name":  with(versioned.fields, "/metadata/name", strings.Repeat("x", 64)),
		"a rule broken: two logins": with(connection.fields, "/spec/mutualTLSSecretRef", map[string]any{"name": "temporal-mtls"}),
		"an address without a port": with(connection.fields, "/spec/hostPort", "temporal"),
		"a kind that nobody knows":  with(connection.fields, "/kind", "Konnection"),
	} {
		text, err := yaml.Marshal(wrong)
		require.NoError(t, err)
		assert.Error(t, v.validate(parse(t, text)), what)
	}
}

func without(v any, key string) any {
	m, _ := v.(map[string]any)
	m = maps.Clone(m)
	delete(m, key)
	return m
}

// pods are the pod templates among objects.
func pods(t *testing.T, all []object) map[string]corev1.PodTemplateSpec {
	t.Helper()
	found := map[string]corev1.PodTemplateSpec{}
	for _, o := range all {
		template := at(o.fields, "spec", "template")
		if template == nil {
			continue
		}
		text, err := yaml.Marshal(template)
		require.NoError(t, err)
		var pod corev1.PodTemplateSpec
		require.NoError(t, yaml.UnmarshalStrict(text, &pod))
		found[o.kind()] = pod
	}
	require.NotEmpty(t, found)
	return found
}

// The worker sets the limit of its heap from that of its container, unless GOMEMLIMIT is set.
func TestManifests_WorkersHaveAMemoryLimitAndNoLimitOfTheirHeap(t *testing.T) {
	for overlay, all := range renderAll(t) {
		for _, o := range all {
			if o.kind() == "v1 ConfigMap" && strings.HasPrefix(o.name(), "outbox-relay-settings") {
				data, _ := at(o.fields, "data").(map[string]any)
				assert.Contains(t, data, "OUTBOX_BATCHES", overlay)
				assert.NotContains(t, data, "GOMEMLIMIT", overlay)
			}
		}
		for _, pod := range pods(t, all) {
			for _, c := range pod.Spec.Containers {
				assert.NotNil(t, c.Resources.Limits.Memory(), overlay)
				assert.False(t, c.Resources.Limits.Memory().IsZero(), overlay)
				for _, e := range c.Env {
					assert.NotEqual(t, "GOMEMLIMIT", e.Name, overlay)
				}
			}
		}
	}
}

func TestManifests_PodsAreUnprivileged(t *testing.T) {
	for overlay, all := range renderAll(t) {
		for kind, pod := range pods(t, all) {
			where := overlay + ": " + kind
			s := pod.Spec.SecurityContext
			require.NotNil(t, s, where)
			assert.True(t, *s.RunAsNonRoot, where)
			assert.EqualValues(t, 65532, *s.RunAsUser, where)
			assert.Equal(t, corev1.SeccompProfileTypeRuntimeDefault, s.SeccompProfile.Type, where)
			assert.False(t, *pod.Spec.AutomountServiceAccountToken, where)
			for _, c := range pod.Spec.Containers {
				assert.False(t, *c.SecurityContext.AllowPrivilegeEscalation, where)
				assert.True(t, *c.SecurityContext.ReadOnlyRootFilesystem, where)
				assert.Equal(t, []corev1.Capability{"ALL"}, c.SecurityContext.Capabilities.Drop, where)
				assert.Empty(t, c.SecurityContext.Capabilities.Add, where)
				assert.False(t, c.Resources.Requests.Memory().IsZero(), where)
				assert.False(t, c.Resources.Limits.Memory().IsZero(), where)
			}
		}
	}
}

// worker is the pod of the workers among an overlay's objects.
func worker(t *testing.T, all []object) (corev1.PodTemplateSpec, bool) {
	t.Helper()
	for _, pod := range pods(t, all) {
		if pod.Labels["app.kubernetes.io/component"] == "worker" {
			return pod, true
		}
	}
	return corev1.PodTemplateSpec{}, false
}

func TestManifests_AWorkerIsGivenTheTimeThatItTakesToStop(t *testing.T) {
	workers := 0
	for overlay, all := range renderAll(t) {
		if pod, ok := worker(t, all); ok {
			workers++
			grace := time.Duration(*pod.Spec.TerminationGracePeriodSeconds) * time.Second
			assert.Greater(t, grace, timing.DrainMost+timing.StopTimeout+timing.ShutdownTimeout, overlay)
			assert.Greater(t, grace, timing.StopsWithin, overlay)
		}
	}
	require.GreaterOrEqual(t, workers, 4)
}

func TestManifests_ProbesAskWhereTheWorkerServes(t *testing.T) {
	for overlay, all := range renderAll(t) {
		pod, ok := worker(t, all)
		if !ok {
			continue
		}
		c := pod.Spec.Containers[0]
		require.Len(t, c.Ports, 1)
		var address string
		for _, e := range c.Env {
			if e.Name == "OUTBOX_HTTP_ADDRESS" {
				address = e.Value
			}
		}
		assert.Equal(t, ":8080", address, overlay)
		assert.EqualValues(t, 8080, c.Ports[0].ContainerPort, overlay)
		// A worker whose database is away must stay: a restart brings nothing back.
		for path, probe := range map[string]*corev1.Probe{"/healthz": c.LivenessProbe, "/readyz": c.ReadinessProbe} {
			assert.Equal(t, path, probe.HTTPGet.Path, overlay)
			assert.Equal(t, c.Ports[0].Name, probe.HTTPGet.Port.StrVal, overlay)
		}
		assert.Equal(t, "/healthz", c.StartupProbe.HTTPGet.Path, overlay)
	}
}

func TestManifests_EverythingThatIsNamedIsThere(t *testing.T) {
	for overlay, all := range renderAll(t) {
		there := map[string]bool{}
		for _, o := range all {
			there[o.kind()+" "+o.name()] = true
		}
		for kind, pod := range pods(t, all) {
			where := overlay + ": " + kind
			if name := pod.Spec.ServiceAccountName; name != "" {
				assert.True(t, there["v1 ServiceAccount "+name], "%s: %s", where, name)
			}
			volumes := map[string]bool{}
			for _, volume := range pod.Spec.Volumes {
				volumes[volume.Name] = true
				if m := volume.ConfigMap; m != nil && (m.Optional == nil || !*m.Optional) {
					assert.True(t, there["v1 ConfigMap "+m.Name], "%s: %s", where, m.Name)
				}
			}
			for _, c := range pod.Spec.Containers {
				for _, mount := range c.VolumeMounts {
					assert.True(t, volumes[mount.Name], "%s: %s", where, mount.Name)
				}
				for _, from := range c.EnvFrom {
					if from.ConfigMapRef != nil {
						assert.True(t, there["v1 ConfigMap "+from.ConfigMapRef.Name], "%s: %s", where, from.ConfigMapRef.Name)
					}
				}
			}
		}
		for _, o := range all {
			if name := text(at(o.fields, "spec", "workerOptions", "connectionRef", "name")); name != "" {
				assert.True(t, there["temporal.io/v1alpha1 Connection "+name], "%s: %s", overlay, name)
			}
		}
	}
}

func TestManifests_SelectorsFindTheWorkers(t *testing.T) {
	for overlay, all := range renderAll(t) {
		pod, ok := worker(t, all)
		if !ok {
			continue
		}
		service := find(t, all, "v1 Service")
		selectors := map[string]any{"Service": at(service.fields, "spec", "selector")}
		for _, o := range all {
			switch selector := at(o.fields, "spec", "selector", "matchLabels"); {
			case selector == nil:
			case o.kind() == "monitoring.coreos.com/v1 ServiceMonitor":
				assert.Subset(t, at(service.fields, "metadata", "labels"), selector, overlay)
				port := text(follow(o.fields, "/spec/endpoints/0/port"))
				assert.Equal(t, text(follow(service.fields, "/spec/ports/0/name")), port, overlay)
			default:
				selectors[o.kind()] = selector
			}
		}
		require.Contains(t, selectors, "policy/v1 PodDisruptionBudget")
		for kind, selector := range selectors {
			for label, value := range selector.(map[string]any) {
				assert.Equal(t, value, pod.Labels[label], "%s: %s", overlay, kind)
			}
		}
	}
}

func TestManifests_AChangeOfRoutesOrSettingsIsAChangeOfThePods(t *testing.T) {
	hashed := regexp.MustCompile(`^outbox-relay-(routes|settings)-[0-9a-z]{10}$`)
	for overlay, all := range renderAll(t) {
		pod, ok := worker(t, all)
		if !ok {
			continue
		}
		assert.Regexp(t, hashed, pod.Spec.Volumes[0].ConfigMap.Name, overlay)
		assert.Regexp(t, hashed, pod.Spec.Containers[0].EnvFrom[0].ConfigMapRef.Name, overlay)
	}
}

func TestManifests_TheControllerGatesEachVersionByTheWorkflowGate(t *testing.T) {
	for _, overlay := range []string{"worker-controller", "example"} {
		o := find(t, render(t, filepath.Join(manifests, "overlays", overlay)), "temporal.io/v1alpha1 WorkerDeployment")
		assert.Equal(t, "Gate", at(o.fields, "spec", "rollout", "gate", "workflowType"), overlay)
		assert.Equal(t, map[string]any{"destinations": "warn"}, at(o.fields, "spec", "rollout", "gate", "input"), overlay)
		// The controller sets these, and may not find them set.
		pod, _ := worker(t, []object{o})
		for _, e := range pod.Spec.Containers[0].Env {
			assert.NotContains(t, e.Name, "TEMPORAL_", overlay)
		}
	}
}

func TestManifests_EveryCommandIsInTheImage(t *testing.T) {
	dockerfile, err := os.ReadFile(filepath.Join("..", "..", "Dockerfile"))
	require.NoError(t, err)
	for overlay, all := range renderAll(t) {
		for kind, pod := range pods(t, all) {
			folder, program := filepath.Split(pod.Spec.Containers[0].Command[0])
			assert.Regexp(t, `COPY --from=build-relay .*/out/`+program+` .*`+folder+`\n`, string(dockerfile), "%s: %s", overlay, kind)
		}
	}
}

// newestVersion is the last one that the changelog has.
func newestVersion(t *testing.T) string {
	t.Helper()
	changes, err := os.ReadFile(filepath.Join("..", "..", "CHANGELOG.md"))
	require.NoError(t, err)
	version := regexp.MustCompile(`(?m)^## \[(\d+\.\d+\.\d+)\]`).FindStringSubmatch(string(changes))
	require.NotNil(t, version)
	return version[1]
}

func TestManifests_TheImageIsThatOfTheNewestVersion(t *testing.T) {
	version := newestVersion(t)
	for overlay, all := range renderAll(t) {
		for kind, pod := range pods(t, all) {
			assert.Equal(t, "ghcr.io/temporal-outbox/relay:"+version, pod.Spec.Containers[0].Image, "%s: %s", overlay, kind)
		}
	}
}

// prometheusRule is made from the rules that docs/dashboards has, so that there is one source.
func TestPrometheusRule_HasTheAlertsOfTheDashboards(t *testing.T) {
	source, err := os.ReadFile(filepath.Join(docs, "dashboards", "alerts.yaml"))
	require.NoError(t, err)
	var rules map[string]any
	require.NoError(t, yaml.Unmarshal(source, &rules))
	text, err := yaml.Marshal(map[string]any{
		"apiVersion": "monitoring.coreos.com/v1",
		"kind":       "PrometheusRule",
		"metadata":   map[string]any{"name": "outbox-relay"},
		"spec":       rules,
	})
	require.NoError(t, err)
	want := "# Made from docs/dashboards/alerts.yaml by `go -C deploy/check test . -update`.\n" + string(text)
	file := filepath.Join(manifests, "components", "monitoring", "prometheusrule.yaml")
	if *update {
		require.NoError(t, os.WriteFile(file, []byte(want), 0o644))
	}
	have, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, want, string(have), "run go -C deploy/check test . -update")
}
