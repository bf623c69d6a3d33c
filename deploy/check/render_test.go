// Package check renders everything in deploy/ and validates it strictly, without a cluster
// and without an AWS account. It is a module of its own, so that programs that import the
// relay do not get these libraries into their go.sum.
package check

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

// manifests is the folder that kubectl apply -k is pointed at.
var manifests = filepath.Join("..", "kubernetes")

// object is a rendered manifest.
type object struct {
	text   []byte
	fields map[string]any
}

func (o object) kind() string { return text(o.fields["apiVersion"]) + " " + text(o.fields["kind"]) }

func (o object) name() string { return text(at(o.fields, "metadata", "name")) }

func text(v any) string {
	s, _ := v.(string)
	return s
}

// at is the value below v at a path, or nil.
func at(v any, path ...string) any {
	for _, key := range path {
		m, _ := v.(map[string]any)
		v = m[key]
	}
	return v
}

// overlays are the folders that can be applied as they are.
func overlays(t *testing.T) []string {
	t.Helper()
	dirs, err := filepath.Glob(filepath.Join(manifests, "overlays", "*"))
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(dirs), 4)
	jobs, err := filepath.Glob(filepath.Join(manifests, "overlays", "*", "migrate"))
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(jobs), 2)
	return append(append(dirs, jobs...), filepath.Join(manifests, "migrate"))
}

// render is what kubectl kustomize prints for a folder.
func render(t *testing.T, dir string) []object {
	t.Helper()
	rendered, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), dir)
	require.NoError(t, err, dir)
	var all []object
	for _, r := range rendered.Resources() {
		text, err := r.AsYAML()
		require.NoError(t, err)
		all = append(all, parse(t, text))
	}
	require.NotEmpty(t, all)
	return all
}

func parse(t *testing.T, text []byte) object {
	t.Helper()
	o := object{text: text}
	require.NoError(t, yaml.Unmarshal(text, &o.fields))
	return o
}

// renderAll is every object of every overlay, by the overlay's name.
func renderAll(t *testing.T) map[string][]object {
	t.Helper()
	all := map[string][]object{}
	for _, dir := range overlays(t) {
		name, err := filepath.Rel(manifests, dir)
		require.NoError(t, err)
		all[name] = render(t, dir)
	}
	return all
}

// edit renders an overlay after a change of each line of its files.
func edit(t *testing.T, overlay string, change func(line string) string) []object {
	t.Helper()
	from := filepath.Join(manifests, "overlays", overlay)
	dir, err := os.MkdirTemp(filepath.Dir(from), ".edited-")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	files, err := filepath.Glob(filepath.Join(from, "*.yaml"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		lines := strings.Split(string(text), "\n")
		for i := range lines {
			lines[i] = change(lines[i])
		}
		require.NoError(t, os.WriteFile(filepath.Join(dir, filepath.Base(file)), []byte(strings.Join(lines, "\n")), 0o644))
	}
	return render(t, dir)
}

// compose renders an overlay that is made of base and these components.
func compose(t *testing.T, components ...string) []object {
	t.Helper()
	// Below the folder of manifests, because Kustomize follows relative paths only.
	dir, err := os.MkdirTemp(filepath.Join(manifests, "overlays"), ".composed-")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	text := "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [../../base]\ncomponents:\n"
	for _, c := range components {
		text += "  - ../../components/" + c + "\n"
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(text), 0o644))
	return render(t, dir)
}

func find(t *testing.T, all []object, kind string) object {
	t.Helper()
	for _, o := range all {
		if o.kind() == kind {
			return o
		}
	}
	t.Fatalf("no %s was rendered", kind)
	return object{}
}
