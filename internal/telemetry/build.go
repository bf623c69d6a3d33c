package telemetry

import (
	"cmp"
	"fmt"
	"runtime/debug"

	"go.opentelemetry.io/otel/attribute"
)

// An image and a release are built without a repository beside the sources, so their build
// tells the linker, by -X and the names of these two. Empty is not told.
var version, revision string

// Build says what a program was built from, as far as it was told: a version only
// where the build said one, or where it was built as a module of a version or from a
// repository.
type Build struct {
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"` // of the repository
	Go       string `json:"go"`
}

// ReadBuild reads what the linker wrote into this program.
func ReadBuild() Build {
	b := Build{Version: "unknown"}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	b.Go = info.GoVersion
	if info.Main.Version != "" {
		b.Version = info.Main.Version
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			b.Revision = s.Value
		}
	}
	b.Version, b.Revision = cmp.Or(version, b.Version), cmp.Or(revision, b.Revision)
	return b
}

// String is what --version prints.
func (b Build) String() string {
	if b.Revision == "" {
		return fmt.Sprintf("%s (%s)", b.Version, b.Go)
	}
	return fmt.Sprintf("%s (revision %s, %s)", b.Version, b.Revision, b.Go)
}

func (b Build) attributes() []attribute.KeyValue {
	return []attribute.KeyValue{
		attribute.String("version", b.Version), attribute.String("revision", b.Revision), attribute.String("go_version", b.Go),
	}
}
