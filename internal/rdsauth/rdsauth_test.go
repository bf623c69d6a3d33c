package rdsauth

import (
	"net/url"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

// account gives the environment of an account in a region.
func account(t *testing.T, region string) {
	t.Helper()
	t.Setenv("AWS_CONFIG_FILE", os.DevNull)
	t.Setenv("AWS_PROFILE", "")
	t.Setenv("AWS_DEFAULT_REGION", "")
	t.Setenv("AWS_REGION", region)
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
}

const cluster = "postgres://relay@shop.cluster-c1x2y3.eu-central-1.rds.amazonaws.com:5432/shop?sslmode=require"

func TestPassword_ByIAMIsATokenForTheEndpointAndTheUser(t *testing.T) {
	account(t, "eu-central-1")
	password, err := Password(t.Context(), ByIAM, cluster)
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
		password, err := Password(t.Context(), how, cluster)
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
		account(t, c.region)
		_, err := Password(t.Context(), c.how, c.url)
		require.ErrorContains(t, err, c.want, c.url)
	}
}
