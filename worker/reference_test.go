package main

import (
	"cmp"
	"flag"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/activities"
)

var update = flag.Bool("update", false, "write the reference instead of comparing it")

const reference = "../docs/configuration.md"

// The reference is made from the code: go test ./worker -update.
func TestTheConfigurationReferenceIsThatOfTheCode(t *testing.T) {
	var b strings.Builder
	b.WriteString("# Configuration of the worker\n\nMade from the code by `go test ./worker -update`, and checked by the same test.\n\n" +
		"## Environment\n\n| variable | default | |\n|---|---|---|\n")
	rows(&b, reflect.TypeFor[settings](), "env", "envDefault")
	b.WriteString("\nTemporal's connection comes from `temporal.toml` and `TEMPORAL_ADDRESS`, `TEMPORAL_NAMESPACE`, `TEMPORAL_API_KEY` and " +
		"`TEMPORAL_TLS_…`, AWS's from the SDK's default chain, where traces go from the standard `OTEL_…` variables ([tracing](tracing.md)).\n\n" +
		"## The file that `OUTBOX_CONFIG` names\n\nUnder `topics`, for each topic by its name:\n\n| key | default | |\n|---|---|---|\n")
	rows(&b, reflect.TypeFor[topic](), "yaml", "default")
	b.WriteString("\nWhat is not known is refused, and everything that is wrong is said at once. `worker --check` checks it without starting.\n" +
		"How much is in flight, `--linger` and retention belong to the schedule: [starter](starter.md).\n")
	if *update {
		require.NoError(t, os.WriteFile(reference, []byte(b.String()), 0o600))
	}
	have, err := os.ReadFile(reference)
	require.NoError(t, err)
	require.Equal(t, b.String(), string(have), "run go test ./worker -update")
	require.EqualValues(t, "1h0m0s", fmt.Sprint(activities.DefaultGiveUpAfter), "the reference says 1h")
}

// rows describes the fields of a struct that have a name.
func rows(b *strings.Builder, of reflect.Type, name, standard string) {
	for i := range of.NumField() {
		tag := of.Field(i).Tag
		if tag.Get(name) == "" {
			continue
		}
		value := "none"
		switch {
		case tag.Get("required") != "":
			value = "required"
		case tag.Get(standard) != "":
			value = "`" + tag.Get(standard) + "`"
		}
		fmt.Fprintf(b, "| `%s` | %s | %s |\n", tag.Get(name), value, cmp.Or(tag.Get("doc"), "UNDOCUMENTED"))
	}
}

func TestEverySettingIsDocumented(t *testing.T) {
	have, err := os.ReadFile(reference)
	require.NoError(t, err)
	require.NotContains(t, string(have), "UNDOCUMENTED")
	help := root().Long
	for i := range reflect.TypeFor[settings]().NumField() {
		if name := reflect.TypeFor[settings]().Field(i).Tag.Get("env"); name != "" {
			require.Contains(t, help, name, "worker --help")
		}
	}
}
