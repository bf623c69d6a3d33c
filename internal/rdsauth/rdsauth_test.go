package rdsauth

import (
	"context"
	"net/url"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/stretchr/testify/require"
)

func loaded(region string) Load {
	return func(context.Context) (aws.Config, error) {
		return aws.Config{Region: region, Credentials: credentials.NewStaticCredentialsProvider("AKIDEXAMPLE", "secret", "")}, nil
	}
}

const cluster = "postgres://relay@shop.cluster-c1x2y3.eu-central-1.rds.amazonaws.com:5432/shop?sslmode=require"

func TestPassword_ByIAMIsATokenForTheEndpointAndTheUser(t *testing.T) {
	password, err := Password(t.Context(), ByIAM, cluster, loaded("eu-central-1"))
	require.NoError(t, err)
	token, err := password(t.Context())
	require.NoError(t, err)
	u, err := url.Parse("https://" + token)
	require.NoError(t, err)
	require.Equal(t, "shop.cluster-c1x2y3.eu-central-1.rds.amazonaws.com:5432", u.Host)
	require.Equal(t, "connect", u.Query().Get("Action"))
	require.Equal(t, "relay", u.Query().Get("DBUser"))
	require.Equal(t, "900", u.Query().Get("X-Amz-Expires"))
	require.NotEmpty(t, u.Query().Get("X-Amz-Signature"))
}

func TestPassword_OfTheURLNeedsNoAWS(t *testing.T) {
	for _, how := range []string{"", ByPassword} {
		password, err := Password(t.Context(), how, cluster, nil)
		require.NoError(t, err)
		require.Nil(t, password)
	}
}

func TestPassword_ByIAMNamesWhatIsMissing(t *testing.T) {
	for _, c := range []struct{ how, url, region, want string }{
		{"token", cluster, "eu-central-1", `OUTBOX_DATABASE_AUTH is "token": it must be password or iam`},
		{ByIAM, "postgres://relay@db.example/shop?sslmode=prefer", "eu-central-1", "needs TLS"},
		{ByIAM, "postgres://relay@db.example/shop?sslmode=disable", "eu-central-1", "needs TLS"},
		{ByIAM, "postgres://relay@a.example,b.example/shop?sslmode=require", "eu-central-1", "needs one host"},
		{ByIAM, cluster, "", "set AWS_REGION"},
	} {
		_, err := Password(t.Context(), c.how, c.url, loaded(c.region))
		require.ErrorContains(t, err, c.want, c.url)
	}
}
