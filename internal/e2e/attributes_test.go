package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/operatorservice/v1"
	grpcproxy "go.temporal.io/api/proxy"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/temporal-outbox/relay/internal/testenv"
	"github.com/temporal-outbox/relay/workflows"
)

// found waits until so many of the outbox's workflows match a query. Temporal lists
// them a moment after they happen.
func (o *outbox) found(c client.Client, n int, query string) {
	o.t.Helper()
	testenv.Eventually(o.t, 15*time.Second, func() error {
		out, err := c.CountWorkflow(o.t.Context(), &workflowservice.CountWorkflowExecutionsRequest{
			Query: fmt.Sprintf("TaskQueue = '%s' AND %s", o.queue, query),
		})
		if err != nil {
			return err
		}
		if int(out.Count) != n {
			return fmt.Errorf("%d workflows have %s, want %d", out.Count, query, n)
		}
		return nil
	})
}

func TestSearchAttributes_FindAllRecoveriesWithOneQuery(t *testing.T) {
	t.Parallel()
	q := newQueue(t, testenv.Name(t))
	o := newOutbox(t, "topics:\n  orders: {sqs: "+q.name+"}\n  audit: {sqs: there-is-no-such-queue}\n")
	c := testenv.Temporal(t)
	o.work()
	o.schedule()
	require.Contains(t, o.starter("schedule", "--maintain-every", "0", "--json"), `"action":"unchanged","paused":false,"searchAttributes":true`)
	q.remove()
	o.write("orders", "e", 100, 10)
	o.write("audit", "a", 10, 10)
	o.recovering(c, "orders")
	o.recovering(c, "audit")
	o.found(c, 2, `OutboxState = "recovering"`)
	o.found(c, 1, `OutboxState = "recovering" AND OutboxTopic = "orders" AND OutboxError = "NonExistentQueue"`)
	newQueue(t, q.name)
	o.ended(c, "orders")
	o.found(c, 1, `OutboxState = "recovering"`)
	o.found(c, 1, `OutboxState = "recovered" AND OutboxTopic = "orders"`)

	// Somebody may not want them: a namespace has room for ten of a type.
	require.Contains(t, o.starter("schedule", "--maintain-every", "0", "--search-attributes=false", "--json"), `"searchAttributes":false`)
}

// refusing is a Temporal server that lets nobody register search attributes, as
// Temporal Cloud does, in front of the real one.
func refusing(t *testing.T) (address string) {
	t.Helper()
	conn, err := grpc.NewClient(os.Getenv("TEMPORAL_ADDRESS"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	passing, err := grpcproxy.NewWorkflowServiceProxyServer(grpcproxy.WorkflowServiceProxyOptions{Client: workflowservice.NewWorkflowServiceClient(conn)})
	require.NoError(t, err)
	s := grpc.NewServer()
	workflowservice.RegisterWorkflowServiceServer(s, passing)
	operatorservice.RegisterOperatorServiceServer(s, operator{real: operatorservice.NewOperatorServiceClient(conn)})
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	return l.Addr().String()
}

type operator struct {
	operatorservice.UnimplementedOperatorServiceServer
	real operatorservice.OperatorServiceClient
}

func (operator) AddSearchAttributes(context.Context, *operatorservice.AddSearchAttributesRequest) (*operatorservice.AddSearchAttributesResponse, error) {
	return nil, status.Error(codes.PermissionDenied, "not by this API")
}

func (o operator) ListSearchAttributes(ctx context.Context, r *operatorservice.ListSearchAttributesRequest) (*operatorservice.ListSearchAttributesResponse, error) {
	return o.real.ListSearchAttributes(ctx, r)
}

// namespaced has the outbox use a namespace of its own.
func (o *outbox) namespaced(c client.Client) (own client.Client, name string) {
	o.t.Helper()
	name = testenv.Name(o.t)
	_, err := c.WorkflowService().RegisterNamespace(o.t.Context(), &workflowservice.RegisterNamespaceRequest{
		Namespace: name, WorkflowExecutionRetentionPeriod: durationpb.New(24 * time.Hour),
	})
	require.NoError(o.t, err)
	own, err = client.NewClientFromExistingWithContext(o.t.Context(), c, client.Options{Namespace: name})
	require.NoError(o.t, err)
	o.env = append(o.env, "TEMPORAL_NAMESPACE="+name)
	testenv.Eventually(o.t, 30*time.Second, func() error { // until every part of the server knows of it
		_, err := own.CountWorkflow(o.t.Context(), &workflowservice.CountWorkflowExecutionsRequest{})
		return err
	})
	return own, name
}

func TestSearchAttributes_ThatCannotBeRegisteredKeepNothingElseFromWorking(t *testing.T) {
	t.Parallel()
	q := newQueue(t, testenv.Name(t))
	o := newOutbox(t, "topics:\n  orders: {sqs: "+q.name+"}\n")
	c, namespace := o.namespaced(testenv.Temporal(t))
	o.env = append(o.env, "TEMPORAL_ADDRESS="+refusing(t))
	out := o.starter("schedule", "--maintain-every", "0")
	require.Contains(t, out, "warning: recoveries will set no search attributes: register OutboxTopic, OutboxState, OutboxError: not by this API")
	require.Contains(t, out, "schedule "+o.queue+" created")
	o.work()
	q.remove()
	o.write("orders", "e", 100, 10)
	o.recovering(c, "orders")
	back := newQueue(t, q.name)
	require.Positive(t, o.ended(c, "orders").Published)
	requireOnce(t, back.receive(100, 30*time.Second), "e", 100)
	require.NoError(t, c.ScheduleClient().GetHandle(t.Context(), o.queue).Delete(t.Context()))

	// Somebody registers them by another way: the next schedule sees that.
	types := map[string]enumspb.IndexedValueType{}
	for _, name := range workflows.Attributes() {
		types[name] = enumspb.INDEXED_VALUE_TYPE_KEYWORD
	}
	_, err := c.OperatorService().AddSearchAttributes(t.Context(), &operatorservice.AddSearchAttributesRequest{Namespace: namespace, SearchAttributes: types})
	require.NoError(t, err)
	testenv.Eventually(t, 15*time.Second, func() error {
		var r struct{ SearchAttributes bool }
		if err := json.Unmarshal([]byte(o.starter("schedule", "--maintain-every", "0", "--json")), &r); err != nil {
			return err
		}
		if !r.SearchAttributes {
			return errNotYet
		}
		return nil
	})
}
