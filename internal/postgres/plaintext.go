package postgres

import (
	"errors"
	"net"
	"strings"

	"github.com/jackc/pgx/v5"
)

// ErrPlainText says that a connection may go over a network without encryption.
var ErrPlainText = errors.New("DATABASE_URL allows a connection over the network without encryption, in which payloads can be read: " +
	"add sslmode=verify-full, and sslrootcert=... for a CA of your own")

// Encrypted returns ErrPlainText if a connection string, or the environment that it
// leaves something to, allows plain text to a host that is not this machine. libpq's
// default, prefer, does: it falls back. A string that cannot be read is not its concern.
func Encrypted(url string) error {
	c, err := pgx.ParseConfig(url)
	if err != nil {
		return nil //nolint:nilerr // Open says so
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
