package stack

import (
	"context"
	"fmt"

	"go.temporal.io/sdk/contrib/envconfig"
)

// namedTemporal checks a server that runs already, reached the way that the
// worker reaches it: by temporal.toml and TEMPORAL_* variables.
func (s *Stack) namedTemporal(ctx context.Context, address string) (*service, error) {
	hint := "start it, or unset TEMPORAL_ADDRESS to have one started here"
	options, err := envconfig.LoadDefaultClientOptions()
	if err != nil {
		return nil, remedy(fmt.Errorf("read Temporal's configuration: %w", err), hint)
	}
	options.HostPort = address
	var version string
	err = ready(ctx, nil, namedLimit, func(ctx context.Context) (err error) {
		version, err = temporalAnswers(ctx, options)
		return err
	})
	if err != nil {
		return nil, remedy(fmt.Errorf("TEMPORAL_ADDRESS=%s does not answer: %w", address, err), hint)
	}
	env := []string{"TEMPORAL_ADDRESS=" + address}
	if ui := s.opt.Getenv("TEMPORAL_UI_URL"); ui != "" {
		env = append(env, "TEMPORAL_UI_URL="+ui)
	}
	return &service{about: fmt.Sprintf("Temporal %s on %s, as TEMPORAL_ADDRESS says", version, address), env: env}, nil
}
