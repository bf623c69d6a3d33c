package community

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
)

func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String(), nil
}

// moduleRoot is the nearest folder above the working directory with a go.mod.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("no go.mod above the working directory: set the environment's folder")
		}
		dir = parent
	}
}

// linkStatic shows an instance the index that was made with its environment.
func linkStatic(root, venv string) error {
	target := staticLibs(root)
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil { //nolint:gosec // no secret
		return err
	}
	return os.Symlink(staticLibs(imageDir(venv)), target)
}
