package postgres

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// CheckURL returns why a PostgreSQL connection string cannot be used, without
// quoting any of it. pgx quotes it with what it takes for the password left out; in
// one with an "@" that is not written %40 it takes the rest of the password for the
// host, shows that, and asks the name server for it.
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
		return fmt.Errorf("read the database URL: %s: it must be such as postgres://user:password@host/name, with special characters of the password escaped (@ is %%40)", reason)
	}
	hosts := []string{c.Host}
	for _, f := range c.Fallbacks {
		hosts = append(hosts, f.Host)
	}
	for _, host := range hosts {
		// A socket's path may hold one, and an abstract socket's begins with one.
		if !strings.HasPrefix(host, "/") && strings.LastIndexByte(host, '@') > 0 {
			return errors.New("read the database URL: there is an @ in the host: write one that belongs to the user or password as %40")
		}
	}
	return nil
}

var (
	jdbc   = regexp.MustCompile(`(?i)^\s*jdbc:`)
	driver = regexp.MustCompile(`(?i)^\s*(postgres(?:ql)?\+[a-z0-9_]{1,30}):`)
	scheme = regexp.MustCompile(`(?i)^\s*([a-z][a-z0-9_+.-]{0,30})://`)
)

// otherLibrarys returns what to change in a URL that is made for another library or another
// database, and nil for any other string. It quotes no more than the scheme.
func otherLibrarys(url string) error {
	if jdbc.MatchString(url) {
		return errors.New("it is a JDBC URL: take off jdbc:, and write it such as postgres://user:password@host/name")
	}
	if m := driver.FindStringSubmatch(url); m != nil {
		return fmt.Errorf("its scheme is %s, which only Python's SQLAlchemy knows: write postgresql:// instead", m[1])
	}
	if m := scheme.FindStringSubmatch(url); m != nil && !isPostgres[strings.ToLower(m[1])] {
		return fmt.Errorf("its scheme is %s: write postgres:// instead, and it must lead to PostgreSQL", m[1])
	}
	return nil
}

var isPostgres = map[string]bool{"postgres": true, "postgresql": true}
