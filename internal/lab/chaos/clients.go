package chaos

import (
	"context"
	"fmt"
	"net/url"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"

	"github.com/temporal-outbox/relay/internal/publish/detach"
	"github.com/temporal-outbox/relay/internal/stack"
)

// awsConfig is the configuration of clients that go straight to the endpoint.
func awsConfig(ctx context.Context, e stack.Vars) (aws.Config, error) {
	cfg, err := awsconfig.LoadDefaultConfig(ctx,
		awsconfig.WithRegion(e.Get("AWS_REGION")), awsconfig.WithBaseEndpoint(e.Get("AWS_ENDPOINT_URL")),
		awsconfig.WithCredentialsProvider(credentials.NewStaticCredentialsProvider(
			e.Get("AWS_ACCESS_KEY_ID"), e.Get("AWS_SECRET_ACCESS_KEY"), "")))
	if err != nil {
		return cfg, fmt.Errorf("read AWS's configuration: %w", err)
	}
	// Without it, answers are lost, and received messages are not recorded.
	cfg.HTTPClient = detach.Client{HTTPClient: awshttp.NewBuildableClient()}
	return cfg, nil
}

// onDatabase is the URL of another database, at another address if one is given.
func onDatabase(base, name, address string) (string, error) {
	u, err := url.Parse(base)
	if err != nil || u.Scheme == "" {
		return "", fmt.Errorf("DATABASE_URL is no URL: %q", base)
	}
	u.Path = "/" + name
	if address != "" {
		u.Host = address
	}
	return u.String(), nil
}
