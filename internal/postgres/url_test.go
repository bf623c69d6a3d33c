package postgres_test

import (
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/postgres"
)

func TestURL_AMistakeIsToldWithoutAnyOfThePassword(t *testing.T) {
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

func TestURL_OfAnotherLibraryIsNamedWithItsRemedy(t *testing.T) {
	for text, want := range map[string]string{
		"postgresql+psycopg2://relay:secret@127.0.0.1/db":           "its scheme is postgresql+psycopg2, which only Python's SQLAlchemy knows: use postgresql:// instead",
		"postgresql+asyncpg://relay:se@cret@127.0.0.1/db":           "its scheme is postgresql+asyncpg, which only Python's SQLAlchemy knows",
		"POSTGRES+pg8000://relay:secret@127.0.0.1/db":               "use postgresql:// instead",
		"jdbc:postgresql://127.0.0.1/db?user=relay&password=secret": "it is a JDBC URL: take off jdbc:, and use the form postgres://user:password@host/name",
		"jdbc:postgresql://relay:secret@127.0.0.1/db":               "it is a JDBC URL",
		"mysql://relay:secret@127.0.0.1/db":                         "its scheme is mysql: use postgres:// and the address of a PostgreSQL server instead",
		"psql://relay:secret@127.0.0.1/db":                          "use postgres:// and the address",
	} {
		_, err := postgres.Open(t.Context(), postgres.Config{URL: text})
		require.ErrorContains(t, err, "read the database URL: ", text)
		require.ErrorContains(t, err, want, text)
		require.NotContains(t, err.Error(), "secret")
		require.NotContains(t, err.Error(), "cret@")
	}
	for _, good := range []string{"postgresql://127.0.0.1/db?user=relay&password=secret", "POSTGRES://relay@127.0.0.1/db", "host=127.0.0.1 password=a://b"} {
		err := postgres.CheckURL(good)
		if err != nil {
			require.NotContains(t, err.Error(), "its scheme", good)
		}
	}
}
