package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	awsconfig "github.com/aws/aws-sdk-go-v2/config"

	"github.com/temporal-outbox/relay/internal/stack"
	"github.com/temporal-outbox/relay/localstack/topology"
)

// programs are the packages that the demo builds: the same programs that a user of the
// relay runs.
var programs = []string{"worker", "starter", "shop"}

func builder(ctx context.Context, root, dir string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "go", "build", "-o", dir+string(filepath.Separator), "./worker", "./starter", "./examples/shop")
	cmd.Dir, cmd.Env = root, os.Environ()
	return cmd
}

func build(cmd *exec.Cmd) error {
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build worker, starter and shop: %w\n%s", err, bytes.TrimSpace(out))
	}
	return nil
}

var moduleLine = regexp.MustCompile(`(?m)^module github\.com/temporal-outbox/relay$`)

// moduleRoot is the checkout that this command runs in.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the checkout: %w", err)
	}
	for {
		mod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && moduleLine.Match(mod) {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("the demo builds the worker from source: run it inside a checkout of outbox-relay")
		}
		dir = filepath.Dir(dir)
	}
}

// wait waits for the programs, and tells the user if that takes long.
func wait(ctx context.Context, built <-chan error) error {
	slow := time.NewTicker(5 * time.Second)
	defer slow.Stop()
	for {
		select {
		case err := <-built:
			return err
		case <-slow.C:
			fmt.Println("still building; the first build takes a few minutes")
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// becomeClient makes this process, and all that it starts from here on, clients of
// the stack.
func becomeClient(s *stack.Stack, more ...string) error {
	environ := append(s.Environ(), more...)
	os.Clearenv()
	for _, kv := range environ {
		name, value, _ := strings.Cut(kv, "=")
		switch name {
		case "OUTBOX_TASK_QUEUE", "TEMPORAL_DEPLOYMENT_NAME", "TEMPORAL_WORKER_BUILD_ID":
			continue // the worker would wait for a schedule or version that is not made here
		}
		if err := os.Setenv(name, value); err != nil {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	return nil
}

func createTopology(ctx context.Context) error {
	cfg, err := awsconfig.LoadDefaultConfig(ctx)
	if err != nil {
		return fmt.Errorf("read AWS's configuration: %w", err)
	}
	if _, err := topology.Local().Apply(ctx, cfg); err != nil {
		return fmt.Errorf("create topics and queues: %w", err)
	}
	return nil
}
