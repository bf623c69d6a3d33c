package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/operatorservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	"github.com/temporal-outbox/relay/workflows"
)

// attributesWithin is how long a server may take to know of an attribute that it has
// just been given.
const attributesWithin = 10 * time.Second

// withSearchAttributes registers the outbox's search attributes and reports whether
// workflows may set them. If not, it warns and says what to do: a workflow that sets
// one that is not registered cannot go on, while one that sets none lacks nothing
// but a query.
func withSearchAttributes(cmd *cobra.Command, c client.Client) (bool, error) {
	o, err := clientOptions()
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), attributesWithin)
	defer cancel()
	err = ensureAttributes(ctx, c.OperatorService(), o.Namespace)
	if err == nil {
		return true, nil
	}
	if cmd.Context().Err() != nil {
		return false, cmd.Context().Err()
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "starter: warning: recoveries will set no search attributes: %v\n"+
		"starter: everything else works without them. To have them, register %s in namespace %s as type Keyword\n"+
		"starter: (temporal operator search-attribute create; on Temporal Cloud, its console or tcld), and run this again\n",
		err, strings.Join(workflows.Attributes(), ", "), o.Namespace)
	return false, nil
}

// ensureAttributes returns when all attributes are there, registering what is not.
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
		return nil, fmt.Errorf("list search attributes: %w", err)
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
