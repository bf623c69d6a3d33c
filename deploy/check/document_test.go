package check

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestTemplates_TheDocumentSetsRequiredParametersAndReadsOutputs(t *testing.T) {
	document, err := os.ReadFile(filepath.Join(docs, "deploy.md"))
	require.NoError(t, err)
	for name, parameter := range at(template(t, "worker.yaml"), "Parameters").(map[string]any) {
		if at(parameter, "Default") == nil {
			assert.Regexp(t, `\b`+name+`=`, string(document))
		}
	}
	read := regexp.MustCompile(`\boutput (outbox-\w+) (\w+)`).FindAllStringSubmatch(string(document), -1)
	require.Greater(t, len(read), 5)
	for _, stack := range read {
		file := map[string]string{"outbox-messaging": "messaging.yaml", "outbox-relay": "worker.yaml"}[stack[1]]
		assert.NotNil(t, at(template(t, file), "Outputs", stack[2]), stack[0])
	}
}

// What nobody should find in a repository is made by hand, so the document says how.
func TestManifests_EverySecretAndOptionalFileIsMadeInTheDocument(t *testing.T) {
	document, err := os.ReadFile(filepath.Join(docs, "deploy.md"))
	require.NoError(t, err)
	named := map[string]bool{}
	for _, all := range append(slices.Collect(maps.Values(renderAll(t))), compose(t, "temporal-mtls")) {
		for _, pod := range pods(t, all) {
			for _, volume := range pod.Spec.Volumes {
				if volume.Secret != nil {
					named["secret tls "+volume.Secret.SecretName] = true
				}
				if m := volume.ConfigMap; m != nil && m.Optional != nil {
					named["configmap "+m.Name] = true
				}
			}
			for _, c := range pod.Spec.Containers {
				for _, from := range c.EnvFrom {
					if from.SecretRef != nil {
						named["secret generic "+from.SecretRef.Name] = true
					}
				}
			}
		}
	}
	require.Len(t, named, 4)
	for name := range named {
		assert.Regexp(t, `kubectl .*create `+name+`\b`, string(document))
	}
}
