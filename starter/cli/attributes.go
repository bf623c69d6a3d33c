package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/operatorservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	"github.com/temporal-outbox/relay/internal/program"
	"github.com/temporal-outbox/relay/workflows"
)

// attributesWithin is how long a server may take to know of an attribute that it has
// just been given.
const attributesWithin = 10 * time.Second

// errNotListed says that it is not known which attributes are registered.
var errNotListed = errors.New("list search attributes")

// searchAttributes says whether recoveries set search attributes, and registers the attributes
// if so. flag is the flag's value, if it is given, and stored that of the schedule, if there is
// one. If the server refuses the registration, it prints a warning with the remedy: a workflow
// that sets an unregistered attribute cannot continue, while without attributes only a query
// is missing.
func searchAttributes(cmd *cobra.Command, c client.Client, flag *bool) func(stored *bool) (bool, error) {
	registered := sync.OnceValues(func() (namespace string, err error) {
		o, err := clientOptions()
		if err != nil {
			return "", err
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), attributesWithin)
		defer cancel()
		return o.Namespace, ensureAttributes(ctx, c.OperatorService(), o.Namespace)
	})
	var warning sync.Once
	return func(stored *bool) (bool, error) {
		if wanted := cmp.Or(flag, stored); wanted != nil && !*wanted {
			return false, nil
		}
		namespace, err := registered()
		if err == nil || cmd.Context().Err() != nil {
			return err == nil, cmd.Context().Err()
		}
		if flag == nil && stored != nil && errors.Is(err, errNotListed) {
			return true, nil // they were there when this was stored
		}
		warning.Do(func() {
			fmt.Fprintf(cmd.ErrOrStderr(), "%[1]s: warning: recoveries will set no search attributes: %[2]v\n"+
				"%[1]s: everything else works without them. To have them, register %[3]s in namespace %[4]s as type Keyword\n"+
				"%[1]s: (temporal operator search-attribute create; on Temporal Cloud, its console or tcld), and run this again with --search-attributes\n",
				program.Starter(), err, strings.Join(workflows.Attributes(), ", "), namespace)
		})
		return false, nil
	}
}

// ensureAttributes registers missing attributes and returns when the server knows all.
func ensureAttributes(ctx context.Context, operator operatorservice.OperatorServiceClient, namespace string) error {
	missing, err := missingAttributes(ctx, operator, namespace)
	if err != nil || len(missing) == 0 {
		return err
	}
	types := make(map[string]enumspb.IndexedValueType, len(missing))
	for _, name := range missing {
		types[name] = enumspb.INDEXED_VALUE_TYPE_KEYWORD
	}
	if _, err := operator.AddSearchAttributes(ctx, &operatorservice.AddSearchAttributesRequest{
		Namespace: namespace, SearchAttributes: types,
	}); err != nil {
		return fmt.Errorf("register %s: %w", strings.Join(missing, ", "), err)
	}
	for {
		missing, err := missingAttributes(ctx, operator, namespace)
		if err != nil || len(missing) == 0 {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.New("registered, but not there yet")
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// topicAttribute has Temporal find an operation by its topic, where that is registered.
func topicAttribute(ctx context.Context, c client.Client, topic string) (none temporal.SearchAttributes, err error) {
	o, err := clientOptions()
	if err != nil {
		return none, err
	}
	missing, err := missingAttributes(ctx, c.OperatorService(), o.Namespace)
	if err != nil || len(missing) > 0 {
		return none, nil //nolint:nilerr // an operation lacks nothing but a query without them
	}
	return temporal.NewSearchAttributes(workflows.TopicAttribute(topic)), nil
}

// missingAttributes lists those that are not registered. One of another type is an
// error.
func missingAttributes(ctx context.Context, operator operatorservice.OperatorServiceClient, namespace string) ([]string, error) {
	there, err := operator.ListSearchAttributes(ctx, &operatorservice.ListSearchAttributesRequest{Namespace: namespace})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNotListed, err)
	}
	missing := workflows.Attributes()
	for name, kind := range there.GetCustomAttributes() {
		if i := slices.Index(missing, name); i >= 0 {
			if kind != enumspb.INDEXED_VALUE_TYPE_KEYWORD {
				return nil, fmt.Errorf("%s is registered as %s: it must be Keyword", name, kind)
			}
			missing = slices.Delete(missing, i, i+1)
		}
	}
	return missing, nil
}
