package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	signer "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/lab/interop/community"
	"github.com/temporal-outbox/relay/internal/testenv"
)

// cloudFormation calls one action of CloudFormation. Two calls are no reason for its SDK.
func cloudFormation(t *testing.T, cfg aws.Config, form url.Values) []byte {
	t.Helper()
	form.Set("Version", "2010-05-15")
	body := form.Encode()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, *cfg.BaseEndpoint, strings.NewReader(body))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
	who, err := cfg.Credentials.Retrieve(t.Context())
	require.NoError(t, err)
	sum := sha256.Sum256([]byte(body))
	// The endpoint knows by the signature which service is asked.
	require.NoError(t, signer.NewSigner().SignHTTP(t.Context(), who, req, hex.EncodeToString(sum[:]), "cloudformation", cfg.Region, time.Now()))
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, resp.StatusCode, string(answer))
	return answer
}

// deployStack makes a stack of a template and returns its outputs.
func deployStack(t *testing.T, cfg aws.Config, name, file string) map[string]string {
	t.Helper()
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	cloudFormation(t, cfg, url.Values{"Action": {"CreateStack"}, "StackName": {name}, "TemplateBody": {string(text)}})
	outputs := map[string]string{}
	testenv.Eventually(t, time.Minute, func() error {
		var answer struct {
			Stacks []struct {
				StackStatus, StackStatusReason string
				Outputs                        []struct{ OutputKey, OutputValue string } `xml:"Outputs>member"`
			} `xml:"DescribeStacksResult>Stacks>member"`
		}
		require.NoError(t, xml.Unmarshal(cloudFormation(t, cfg, url.Values{"Action": {"DescribeStacks"}, "StackName": {name}}), &answer))
		require.Len(t, answer.Stacks, 1)
		stack := answer.Stacks[0]
		require.NotContains(t, stack.StackStatus, "ROLLBACK", stack.StackStatusReason)
		require.NotContains(t, stack.StackStatus, "FAILED", stack.StackStatusReason)
		if stack.StackStatus != "CREATE_COMPLETE" {
			return fmt.Errorf("the stack is in %s", stack.StackStatus)
		}
		for _, o := range stack.Outputs {
			outputs[o.OutputKey] = o.OutputValue
		}
		return nil
	})
	return outputs
}

// The template's output is the worker's configuration, and events reach each queue: raw,
// filtered and in order. LocalStack checks no rights and encrypts nothing.
func TestMessagingTemplate_CarriesEventsToEachQueueThatItMakes(t *testing.T) {
	t.Parallel()
	if os.Getenv("INTEROP") == "" {
		t.Skip("the emulator has no CloudFormation: run `make interop`")
	}
	emulator, err := community.Start(t.Context(), community.Options{Services: "sns,sqs,kms,cloudformation,iam,sts,s3"})
	require.NoError(t, err)
	t.Cleanup(emulator.Stop)
	cfg, err := config.LoadDefaultConfig(t.Context(), config.WithBaseEndpoint(emulator.Endpoint), config.WithRegion("us-east-1"),
		config.WithCredentialsProvider(credentials.NewStaticCredentialsProvider("test", "test", "")))
	require.NoError(t, err)
	outputs := deployStack(t, cfg, "messaging", filepath.Join("..", "..", "deploy", "aws", "messaging.yaml"))

	o := newOutbox(t, outputs["Routes"])
	o.exec(`INSERT INTO outbox.event (topic, key, type, payload) VALUES
		('orders', '1', 'OrderPlaced', '{"order": 1}'), ('orders', '1', 'OrderPaid', '{"paid": 1}'),
		('ledger', 'a', 'Booked', 'one'), ('ledger', 'a', 'Booked', 'two'), ('ledger', 'a', 'Booked', 'three'),
		('inventory', 'sku', 'Counted', 'seven')`)
	env := append(emulator.Env(), "AWS_DEFAULT_REGION=us-east-1")
	o.work(env...)
	o.schedule()
	o.drained(time.Minute)

	receive := func(output string, n int) (got []string) {
		require.NotEmpty(t, outputs[output], output)
		q := queue{t: t, sqs: sqs.NewFromConfig(cfg), name: output, url: outputs[output]}
		for _, m := range q.receive(n, 30*time.Second) {
			got = append(got, *m.Body)
		}
		return got
	}
	require.ElementsMatch(t, []string{`{"order": 1}`, `{"paid": 1}`}, receive("BillingUrl", 2), "payloads byte for byte: raw delivery")
	require.Equal(t, []string{`{"paid": 1}`}, receive("ShippingUrl", 1), "by its filter policy")
	require.Equal(t, []string{"one", "two", "three"}, receive("BookkeepingUrl", 3), "in order")
	require.Equal(t, []string{"seven"}, receive("InventoryUrl", 1))
}

func TestManifests_HaveRoutesThatAreAConfiguration(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob(filepath.Join("..", "..", "deploy", "kubernetes", "*", "outbox.yaml"))
	require.NoError(t, err)
	overlays, err := filepath.Glob(filepath.Join("..", "..", "deploy", "kubernetes", "overlays", "*", "outbox.yaml"))
	require.NoError(t, err)
	files = append(files, overlays...)
	require.Len(t, files, 3, "the base and both examples")
	o := newOutbox(t, "topics:\n  orders: {sqs: q}\n")
	for _, file := range files {
		out, _ := o.check([]string{"OUTBOX_CONFIG=" + file})
		require.True(t, strings.HasPrefix(line(t, out, "configuration"), "ok "), "%s:\n%s", file, out)
	}
}
