package postgres

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// CheckURL returns an error if a PostgreSQL connection string cannot be used. The error quotes no part
// of the string. pgx quotes the string without the password. But if the password has an "@" that is not
// written as %40, pgx takes the rest of the password for the host, shows it, and sends it to the name
// server.
func CheckURL(url string) error {
	if err := otherLibrarys(url); err != nil {
		return fmt.Errorf("read the database URL: %w", err)
	}
	c, err := pgx.ParseConfig(url)
	if err != nil {
		reason := "it cannot be parsed"
		if _, ok := errors.AsType[*pgconn.ParseConfigError](err); ok && errors.Unwrap(err) != nil {
			reason = errors.Unwrap(err).Error()
		}
		return fmt.Errorf("read the database URL: %s: use the form postgres://user:password@host/name, with special characters of the password escaped (@ is %%40)", reason)
	}
	hosts := []string{c.Host}
	for _, f := range c.Fallbacks {
		hosts = append(hosts, f.Host)
	}
	for _, host := range hosts {
		// A socket's path may contain an @, and that of an abstract socket begins with one.
		if !strings.HasPrefix(host, "/") && strings.LastIndexByte(host, '@') > 0 {
			return errors.New("read the database URL: the host contains an @: write an @ of the user or the password as %40")
		}
	}
	return nil
}

var (
	jdbc   = regexp.MustCompile(`(?i)^\s*jdbc:`)
	driver = regexp.MustCompile(`(?i)^\s*(postgres(?:ql)?\+[a-z0-9_]{1,30}):`)
	scheme = regexp.MustCompile(`(?i)^\s*([a-z][a-z0-9_+.-]{0,30})://`)
)

// otherLibrarys returns an error with the correction of a URL that is made for another library or
// another database, and nil for any other string. The error quotes only the scheme.
func otherLibrarys(url string) error {
	if jdbc.MatchString(url) {
		return errors.New("it is a JDBC URL: take off jdbc:, and use the form postgres://user:password@host/name")
	}
	if m := driver.FindStringSubmatch(url); m != nil {
		return fmt.Errorf("its scheme is %s, which only Python's SQLAlchemy knows: use postgresql:// instead", m[1])
	}
	if m := scheme.FindStringSubmatch(url); m != nil && !isPostgres[strings.ToLower(m[1])] {
		return fmt.Errorf("its scheme is %s: use postgres:// and the address of a PostgreSQL server instead", m[1])
	}
	return nil
}

var isPostgres = map[string]bool{"postgres": true, "postgresql": true}
