package stack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// backup copies the data directory of a running server, in the way that PostgreSQL
// documents for it. (pg_basebackup does the same, but the server's packages for npm do
// not have it.)
func (s *server) backup(ctx context.Context, to string) error {
	conn, err := pgx.Connect(ctx, s.super())
	if err != nil {
		return fmt.Errorf("connect for a backup: %w", err)
	}
	defer conn.Close(ctx)
	begin, end := `SELECT pg_backup_start('copy', true)`, `SELECT labelfile FROM pg_backup_stop(false)`
	var version int
	if err := conn.QueryRow(ctx, `SELECT current_setting('server_version_num')::int`).Scan(&version); err != nil {
		return fmt.Errorf("ask for the version: %w", err)
	}
	if version < 150000 {
		begin, end = `SELECT pg_start_backup('copy', true, false)`, `SELECT labelfile FROM pg_stop_backup(false, false)`
	}
	if _, err := conn.Exec(ctx, begin); err != nil {
		return fmt.Errorf("begin a backup: %w", err)
	}
	if err := s.copy(to, func(path string) bool { return path == "postmaster.pid" || path == "pg_wal" }); err != nil {
		return err
	}
	var label string
	if err := conn.QueryRow(ctx, end).Scan(&label); err != nil {
		return fmt.Errorf("end a backup: %w", err)
	}
	// These files have the changes that were made while the others were copied.
	if err := s.copy(to, func(path string) bool { return !strings.HasPrefix(path, "pg_wal") }); err != nil {
		return err
	}
	return s.write(filepath.Join(to, "backup_label"), label)
}

// copy copies the data directory without the files and directories that leave names, by
// their path in it. A file that disappears meanwhile is not needed.
func (s *server) copy(to string, leave func(path string) bool) error {
	err := filepath.WalkDir(s.data, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		}
		name, err := filepath.Rel(s.data, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, name)
		switch {
		case name != "." && leave(name):
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		case d.IsDir():
			if err := os.Mkdir(target, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
				return err
			}
			return s.account.own(target)
		case !d.Type().IsRegular():
			return fmt.Errorf("%s is neither a file nor a directory", path)
		}
		return s.copyFile(target, path)
	})
	if err != nil {
		return fmt.Errorf("copy the data directory: %w", err)
	}
	return nil
}

func (s *server) copyFile(to, from string) error {
	in, err := os.Open(from)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	if _, err := io.Copy(out, in); err != nil {
		return err
	}
	return s.account.own(to)
}

func (s *server) write(path, text string) error {
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return err
	}
	return s.account.own(path)
}

// copied is a server on a copy of s's data, with a port of its own.
func (s *server) copied(ctx context.Context, name string) (*server, error) {
	to := filepath.Join(s.home, fmt.Sprintf("%s-%d", name, time.Now().UnixNano()))
	if err := s.backup(ctx, to); err != nil {
		return nil, err
	}
	other := *s
	other.data, other.options = to, nil
	return &other, nil
}
