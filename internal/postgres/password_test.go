package postgres

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"
)

// asksForPasswords is a server that asks each client for its password in plain text, tells
// it, and refuses it. A real server does not say which password it was given.
func asksForPasswords(t *testing.T) (url string, asked <-chan string) {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	passwords := make(chan string, 10)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				b := pgproto3.NewBackend(conn, conn)
				if _, err := b.ReceiveStartupMessage(); err != nil {
					return
				}
				b.Send(&pgproto3.AuthenticationCleartextPassword{})
				if b.Flush() != nil || b.SetAuthType(pgproto3.AuthTypeCleartextPassword) != nil {
					return
				}
				if m, err := b.Receive(); err == nil {
					if p, ok := m.(*pgproto3.PasswordMessage); ok {
						passwords <- p.Password
					}
				}
				b.Send(&pgproto3.ErrorResponse{Severity: "FATAL", Code: "28P01", Message: "password authentication failed"})
				_ = b.Flush()
			}()
		}
	}()
	return fmt.Sprintf("postgres://relay:old@%s/shop?sslmode=disable", l.Addr()), passwords
}

func TestPassword_IsMadeAnewForEachConnection(t *testing.T) {
	url, asked := asksForPasswords(t)
	var made atomic.Int32
	password := func(context.Context) (string, error) { return "token-" + strconv.Itoa(int(made.Add(1))), nil }
	s, err := Open(t.Context(), Config{URL: url, Password: password})
	require.NoError(t, err)
	t.Cleanup(s.Close)
	require.ErrorContains(t, s.Reach(t.Context()), "28P01")
	require.Equal(t, "token-1", <-asked)
	_, _, err = s.Apart(t.Context())
	require.ErrorContains(t, err, "28P01")
	require.Equal(t, "token-2", <-asked)
	_, err = Connect(t.Context(), url, password, nil)
	require.ErrorContains(t, err, "28P01")
	require.Equal(t, "token-3", <-asked)
}

func TestPassword_ThatCannotBeMadeIsTheReason(t *testing.T) {
	url, _ := asksForPasswords(t)
	s, err := Open(t.Context(), Config{URL: url, Password: func(context.Context) (string, error) {
		return "", errors.New("no AWS credentials")
	}})
	require.NoError(t, err)
	t.Cleanup(s.Close)
	require.ErrorContains(t, s.Reach(t.Context()), "get a password: no AWS credentials")
}
