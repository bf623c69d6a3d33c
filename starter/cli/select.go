package cli

import (
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/temporal-outbox/relay/internal/relay"
)

// selector has the flags that select events of a topic.
type selector struct {
	eventIDs     []string
	key, typ     string
	code         string
	since, until string
}

func (s *selector) flags(cmd *cobra.Command, dead bool) {
	f := cmd.Flags()
	f.StringSliceVar(&s.eventIDs, "event-id", nil, "only this event; may be repeated")
	f.StringVar(&s.key, "key", "", "only events of this key")
	f.StringVar(&s.typ, "type", "", "only events of this type")
	when := "events written"
	if dead {
		when = "dead letters made"
		f.StringVar(&s.code, "code", "", "only dead letters with this code, such as EventTooLarge")
	}
	f.StringVar(&s.since, "since", "", when+" since then: a time such as 2026-01-31T15:04:05Z, or how long ago, such as 2h")
	f.StringVar(&s.until, "until", "", when+" before then: a time, or how long ago, as for --since")
}

// empty reports whether everything is selected.
func (s *selector) empty() bool {
	return len(s.eventIDs) == 0 && s.key == "" && s.typ == "" && s.code == "" && s.since == "" && s.until == ""
}

// selection checks the filters. An empty filter is an error: a script with an unset variable
// would otherwise select all events.
func (s *selector) selection(cmd *cobra.Command) (chosen relay.Selection, err error) {
	cmd.Flags().Visit(func(f *pflag.Flag) {
		switch f.Name {
		case "event-id", "key", "type", "code", "since", "until":
			if v := f.Value.String(); v == "" || v == "[]" {
				err = misuse("--%s is empty: leave it out to select all", f.Name)
			}
		}
	})
	if err != nil {
		return chosen, err
	}
	if chosen.EventIDs, err = relay.EventIDs(s.eventIDs); err != nil {
		return chosen, misuse("--event-id: %w", err)
	}
	chosen.Key, chosen.Type, chosen.Code = s.key, s.typ, s.code
	chosen.Since, chosen.Until = s.since, s.until
	if _, _, err := chosen.Range(time.Now()); err != nil {
		return chosen, misuse("--%w", err)
	}
	return chosen, nil
}
