package telemetry

import (
	"cmp"
	"fmt"
	"runtime/debug"

	"go.opentelemetry.io/otel/attribute"
)

// An image and a release are built without a repository next to the sources, so their builds set
// these two variables with the linker's flag -X. Empty: not set.
var version, revision string

// Build names the version and the revision of a program, if they are known: if the build set
// them, or if the program was built as a module of a version or from a repository.
type Build struct {
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"` // of the repository
	Go       string `json:"go"`
}

// ReadBuild reads this program's build information.
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

// String returns the text that --version prints.
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
