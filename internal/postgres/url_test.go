package postgres_test

import (
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/postgres"
)

func TestAMistakeInTheDatabaseURLIsToldWithoutAnyOfItsPassword(t *testing.T) {
	for name, text := range map[string]string{
		"an @ in the password":              "postgres://relay:begin@end@127.0.0.1:1/db",
		"an @, and a bad port":              "postgres://relay:begin@end@127.0.0.1:port/db",
		"an @, and no name of a scheme":     "relay:begin@end@127.0.0.1:1/db",
		"a colon, and a misspelt scheme":    "postgress://relay:begin:end@127.0.0.1:1/db",
		"a space in keywords and values":    "host=127.0.0.1 password=begin end",
		"a slash, and a bad port":           "postgres://relay:begin/end@127.0.0.1:port/db",
		"a host among several, behind an @": "postgres://relay:begin@end@127.0.0.1:1,127.0.0.2:1/db",
	} {
		t.Run(name, func(t *testing.T) {
			_, err := postgres.Open(t.Context(), postgres.Config{URL: text})
			require.ErrorContains(t, err, "read the database URL: ")
			require.NotContains(t, err.Error(), "begin")
			require.NotContains(t, err.Error(), "end")
		})
	}
	_, err := postgres.Open(t.Context(), postgres.Config{URL: "postgres://relay@127.0.0.1/db?sslmode=requird"})
	require.ErrorContains(t, err, "sslmode is invalid", "the reason is told")
	for _, good := range []string{
		"postgres://relay:" + url.QueryEscape("begin@end/#?%") + "@127.0.0.1:1/db",
		"host=/run/user@1/postgresql dbname=db", "host=@abstract dbname=db", "postgres:///db",
	} {
		require.NoError(t, postgres.CheckURL(good), good)
	}
}
