package postgres

import (
	"errors"
	"net"
	"strings"

	"github.com/jackc/pgx/v5"
)

// ErrPlainText says that a connection may use a network without encryption.
var ErrPlainText = errors.New("DATABASE_URL allows a connection over the network without encryption, so that others can read payloads: " +
	"add sslmode=verify-full, and sslrootcert=... for a CA of your own")

// Encrypted returns ErrPlainText if a connection string, or an environment variable that completes
// it, allows plain text to a host other than this machine. libpq's default, prefer, allows it: it
// falls back to plain text. Encrypted returns nil for a string that cannot be parsed.
func Encrypted(url string) error {
	c, err := pgx.ParseConfig(url)
	if err != nil {
		return nil //nolint:nilerr // Open returns that error
	}
	if c.TLSConfig == nil && !isLocal(c.Host) {
		return ErrPlainText
	}
	for _, f := range c.Fallbacks {
		if f.TLSConfig == nil && !isLocal(f.Host) {
			return ErrPlainText
		}
	}
	return nil
}

// isLocal is true of this machine: a socket's path, or a loopback address.
func isLocal(host string) bool {
	if strings.HasPrefix(host, "/") || strings.HasPrefix(host, "@") || strings.EqualFold(host, "localhost") {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}
