package outbox

import (
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// ValidationError is a rule that an event breaks. Write returns these errors inside
// [ValidationErrors]; errors.As finds the first one.
type ValidationError struct {
	Index  int    // the event's position among Write's arguments, from 0
	Field  string // the field of [Event]: "Topic", "Payload", "Attributes", ...
	Reason string // the broken rule; never contains payload, key or attribute values
}

func (e *ValidationError) Error() string {
	return fmt.Sprintf("event %d: %s %s", e.Index, e.Field, e.Reason)
}

// ValidationErrors are all problems of all events of one call, in the order of
// the events. Nothing was sent to the database, and the transaction is usable.
type ValidationErrors []*ValidationError

// Error names the first ten problems and counts the rest.
func (v ValidationErrors) Error() string {
	const most = 10
	var b strings.Builder
	for i, problem := range v[:min(len(v), most)] {
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(problem.Error())
	}
	if len(v) > most {
		fmt.Fprintf(&b, "; and %d more", len(v)-most)
	}
	return b.String()
}

// Unwrap lets errors.As and errors.Is look at each problem.
func (v ValidationErrors) Unwrap() []error {
	errs := make([]error, len(v))
	for i, problem := range v {
		errs[i] = problem
	}
	return errs
}

// collect returns a function that adds problems of the event at index.
func (v *ValidationErrors) collect(index int) func(field, reason string, args ...any) {
	return func(field, reason string, args ...any) {
		*v = append(*v, &ValidationError{Index: index, Field: field, Reason: fmt.Sprintf(reason, args...)})
	}
}

// orNil avoids the interface that holds an empty slice and is not nil.
func (v ValidationErrors) orNil() error {
	if len(v) == 0 {
		return nil
	}
	return v
}

// explain adds the operation. If a step of the installation is missing, it also adds
// the remedy, because PostgreSQL's message does not name it.
func explain(err error) error {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		switch pgErr.Code {
		case "42P01", "42703": // undefined_table, undefined_column
			return fmt.Errorf("write events: the database has no outbox, or an older version of it; run \"starter migrate\": %w", err)
		case "42501": // insufficient_privilege
			return fmt.Errorf("write events: the role has no right to write events; "+
				"grant it the producer's rights, see schema/README.md: %w", err)
		}
	}
	return fmt.Errorf("write events: %w", err)
}
