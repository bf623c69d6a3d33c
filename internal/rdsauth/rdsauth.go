// Package rdsauth logs in to RDS and Aurora with IAM database authentication. The password of
// each connection is a token, signed with AWS's credentials and valid for 15 minutes.
// https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/UsingWithRDS.IAMDBAuth.html
package rdsauth

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"

	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/feature/rds/auth"
	"github.com/jackc/pgx/v5"
)

// Variable names the environment variable that sets how connections to the database log in.
const Variable = "OUTBOX_DATABASE_AUTH"

// The values of Variable.
const (
	ByPassword = "password" // the URL's; the default
	ByIAM      = "iam"
)

// Password returns the function that makes the password of each connection to a database, or nil
// if the password is in the URL. how is Variable's value. Password opens no connection.
//
// IAM needs a region, a user, TLS, and one host, which must be the RDS endpoint itself and no
// alias of it. The errors name the missing part. Of the URL they quote only host and user.
func Password(ctx context.Context, how, url string) (func(context.Context) (string, error), error) {
	switch how {
	case "", ByPassword:
		return nil, nil //nolint:nilnil // no function is the answer
	case ByIAM:
	default:
		return nil, fmt.Errorf("%s is %q: it must be %s or %s", Variable, how, ByPassword, ByIAM)
	}
	c, err := pgx.ParseConfig(url)
	if err != nil {
		return nil, errors.New("read the database URL: it cannot be parsed")
	}
	encrypted := c.TLSConfig != nil
	for _, f := range c.Fallbacks {
		if f.Host != c.Host {
			return nil, fmt.Errorf("%s=%s needs one host, because a token is valid for one endpoint: use the endpoint of the cluster or the instance", Variable, ByIAM)
		}
		encrypted = encrypted && f.TLSConfig != nil
	}
	if !encrypted {
		return nil, fmt.Errorf("%s=%s needs TLS: add sslmode=verify-full and sslrootcert (the certificates of RDS) to the database URL", Variable, ByIAM)
	}
	cfg, err := awsconfig.LoadDefaultConfig(ctx)
	if err != nil {
		return nil, fmt.Errorf("read AWS's configuration: %w", err)
	}
	if cfg.Region == "" {
		return nil, fmt.Errorf("%s=%s needs the database's region: set AWS_REGION", Variable, ByIAM)
	}
	endpoint := net.JoinHostPort(c.Host, strconv.Itoa(int(c.Port)))
	return func(ctx context.Context) (string, error) {
		token, err := auth.BuildAuthToken(ctx, endpoint, cfg.Region, c.User, cfg.Credentials)
		if err != nil {
			return "", fmt.Errorf("make the token of %s at %s: %w", c.User, endpoint, err)
		}
		return token, nil
	}, nil
}
