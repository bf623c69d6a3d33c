package postgres

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPlaintext_TellsConnectionsThatMayBeInPlainTextOverANetwork(t *testing.T) {
	for _, name := range []string{"PGSSLMODE", "PGHOST", "PGSSLROOTCERT"} {
		t.Setenv(name, "")
	}
	for url, plain := range map[string]bool{
		"postgres://u:p@db.example.com/d":                             true, // prefer
		"postgres://u:p@db.example.com/d?sslmode=prefer":              true,
		"postgres://u:p@db.example.com/d?sslmode=allow":               true,
		"postgres://u:p@db.example.com/d?sslmode=disable":             true,
		"postgres://u:p@db.example.com/d?sslmode=require":             false,
		"postgres://u:p@db.example.com/d?sslmode=verify-ca":           false,
		"postgres://u:p@db.example.com/d?sslmode=verify-full":         false,
		"host=db.example.com user=u dbname=d":                         true,
		"host=db.example.com user=u dbname=d sslmode=verify-full":     false,
		"postgres://u:p@10.0.0.1/d":                                   true,
		"postgres://u:p@[2001:db8::1]/d":                              true,
		"postgres://u:p@127.0.0.1/d":                                  false,
		"postgres://u:p@127.1.2.3/d?sslmode=disable":                  false,
		"postgres://u:p@[::1]/d":                                      false,
		"postgres://u:p@localhost/d?sslmode=disable":                  false,
		"host=/var/run/postgresql user=u dbname=d":                    false,
		"postgres://u:p@localhost,db.example.com/d":                   true,
		"postgres://u:p@localhost,db.example.com/d?sslmode=require":   false,
		"postgres://u:p@localhost.example.com/d":                      true,
		"postgres://u:p@ss@db.example.com:notaport/d?sslmode=disable": false, // cannot be read
	} {
		err := Encrypted(url)
		if plain {
			require.ErrorIs(t, err, ErrPlainText, url)
			require.NotContains(t, err.Error(), "db.example.com")
		} else {
			require.NoError(t, err, url)
		}
	}
	t.Setenv("PGSSLMODE", "verify-full")
	require.NoError(t, Encrypted("postgres://u:p@db.example.com/d"), "the environment says so")
}
