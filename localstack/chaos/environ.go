package chaos

import (
	"context"
	"fmt"
	"net/url"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"

	"github.com/temporal-outbox/relay/internal/publish/detach"
)

// environ is a child's environment. It serves envconfig as a source.
type environ []string

// LookupEnv returns the last value of a variable.
func (e environ) LookupEnv(name string) (value string, ok bool) {
	for _, kv := range e {
		if n, v, found := strings.Cut(kv, "="); found && n == name {
			value, ok = v, true
		}
	}
	return value, ok
}

// Environ returns all of it.
func (e environ) Environ() []string { return e }

func (e environ) get(name string) string {
	value, _ := e.LookupEnv(name)
	return value
}

// with adds variables, which win over earlier ones.
func (e environ) with(more ...string) environ { return append(e[:len(e):len(e)], more...) }

// aws is the configuration of clients that go straight to the endpoint.
func (e environ) aws(ctx context.Context) (aws.Config, error) {
	cfg, err := awsconfig.LoadDefaultConfig(ctx,
		awsconfig.WithRegion(e.get("AWS_REGION")), awsconfig.WithBaseEndpoint(e.get("AWS_ENDPOINT_URL")),
		awsconfig.WithCredentialsProvider(credentials.NewStaticCredentialsProvider(
			e.get("AWS_ACCESS_KEY_ID"), e.get("AWS_SECRET_ACCESS_KEY"), "")))
	if err != nil {
		return cfg, fmt.Errorf("read AWS's configuration: %w", err)
	}
	// Without it answers are lost, and messages received that nobody records.
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
