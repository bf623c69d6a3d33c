// Package rdsauth logs in to RDS and Aurora with IAM database authentication: the password
// of each connection is a token that AWS's credentials sign, and that is valid for 15
// minutes.
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

// Variable says how connections to the database log in.
const Variable = "OUTBOX_DATABASE_AUTH"

// The values of Variable.
const (
	ByPassword = "password" // the URL's; the default
	ByIAM      = "iam"
)

// Password returns what makes the password of each connection to a database, as
// Variable's value says, or nil if it is the URL's own. It connects to nobody.
//
// IAM needs a region, a user, one host that is the endpoint of RDS, not another name for
// it, and TLS: the errors say so, and quote nothing of the URL but host and user.
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
			return nil, fmt.Errorf("%s=%s needs one host, because a token is for one endpoint: give the cluster's or instance's endpoint", Variable, ByIAM)
		}
		encrypted = encrypted && f.TLSConfig != nil
	}
	if !encrypted {
		return nil, fmt.Errorf("%s=%s needs TLS: add sslmode=verify-full and sslrootcert, with the certificates of RDS, to the database URL", Variable, ByIAM)
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
