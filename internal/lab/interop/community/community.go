// Package community runs LocalStack's last release that needs no account, from
// its Python packages instead of its Docker image.
//
// The emulator that tests and the demo use is quick to install and quick to
// start, but it is one reading of what SNS and SQS do. This second one, written
// by other people, keeps the relay from being fitted to the first one's
// mistakes, on machines without Docker too.
package community

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/temporal-outbox/relay/internal/stack"
)

// Version is the release that Start runs. docker-compose.yml names the same.
const Version = "4.14.0"

const (
	startTimeout = 2 * time.Minute
	stopTimeout  = 10 * time.Second
	portAttempts = 3
)

// Options says where and how to start. The zero value works inside the module.
type Options struct {
	// VenvDir is the virtual environment to use or make. The default is
	// .tools/localstack-venv in the module that holds the working directory.
	VenvDir string
	// Services are those that it runs, separated by commas. The default is sns,sqs, which
	// always are among them.
	Services string
	// InitDir is put where LocalStack looks for its init hooks, as the Docker
	// image's /etc/localstack/init. The default is no hooks.
	InitDir string
	// Env is added to LocalStack's environment, which is otherwise bare.
	Env []string
	// Progress is told about slow steps. The default is standard error.
	Progress io.Writer
}

// Instance is a running LocalStack with the services of its Options only.
type Instance struct {
	// Endpoint is its URL, on the loopback interface.
	Endpoint string

	dir  string
	cmd  *exec.Cmd
	done chan struct{}
}

// Start makes the virtual environment if it is missing, which takes about a
// minute and needs Python 3.13 and a package index, and starts LocalStack on a
// free port. It returns once SNS and SQS answer and init hooks have run; the
// error holds the end of LocalStack's log if they do not. Call Stop when done:
// ctx only bounds the start.
func Start(ctx context.Context, opt Options) (*Instance, error) {
	if opt.Progress == nil {
		opt.Progress = os.Stderr
	}
	python, err := ensureVenv(ctx, opt.VenvDir, opt.Progress)
	if err != nil {
		return nil, fmt.Errorf("prepare localstack %s: %w", Version, err)
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for attempt := 1; ; attempt++ {
		in, err := start(ctx, python, opt)
		if err == nil {
			return in, nil
		}
		// Between choosing a free port and listening on it, another may take it.
		if attempt == portAttempts || !strings.Contains(err.Error(), "ddress already in use") {
			return nil, fmt.Errorf("start localstack %s: %w", Version, err)
		}
	}
}

// Python returns the interpreter of the virtual environment that Start runs LocalStack in,
// and makes the environment in the same way if it is missing. The linter cfn-lint is among
// its packages.
func Python(ctx context.Context, opt Options) (string, error) {
	if opt.Progress == nil {
		opt.Progress = os.Stderr
	}
	return ensureVenv(ctx, opt.VenvDir, opt.Progress)
}

func start(ctx context.Context, python string, opt Options) (_ *Instance, err error) {
	dir, err := os.MkdirTemp("", "localstack-")
	if err != nil {
		return nil, err
	}
	in := &Instance{dir: dir, done: make(chan struct{})}
	defer func() {
		if err != nil {
			in.Stop()
		}
	}()
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	in.Endpoint = "http://" + address
	root := filepath.Join(dir, "root")
	if err := linkStatic(root, filepath.Dir(filepath.Dir(python))); err != nil {
		return nil, err
	}
	if opt.InitDir != "" {
		hooks := filepath.Join(root, "etc", "localstack", "init")
		if err := os.CopyFS(hooks, os.DirFS(opt.InitDir)); err != nil {
			return nil, fmt.Errorf("copy init hooks: %w", err)
		}
	}
	if err := in.run(python, root, append([]string{"SERVICES=" + cmp.Or(opt.Services, "sns,sqs")}, opt.Env...)); err != nil {
		return nil, err
	}
	return in, in.ready(ctx)
}

// run starts the process, with every switch off that would have it look at the
// internet.
func (in *Instance) run(python, root string, env []string) error {
	log, err := os.Create(in.logFile())
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	in.cmd = exec.Command(python, "-m", "localstack.runtime.main")
	in.cmd.Dir, in.cmd.Stdout, in.cmd.Stderr = in.dir, log, log
	in.cmd.Env = append(append(hostMode(in.dir, root),
		"GATEWAY_LISTEN="+strings.TrimPrefix(in.Endpoint, "http://"),
		"AWS_ENDPOINT_URL="+in.Endpoint, // for init hooks
		"STRICT_SERVICE_LOADING=1",
		"EAGER_SERVICE_LOADING=1",
		"SKIP_SSL_CERT_DOWNLOAD=1",
		"DISABLE_EVENTS=1",
		"DNS_ADDRESS=0",
	), env...)
	stack.DieWithParent(in.cmd, syscall.SIGTERM)
	if err := stack.StartChild(in.cmd); err != nil {
		in.cmd = nil
		return err
	}
	go func() {
		_ = in.cmd.Wait()
		close(in.done)
	}()
	return nil
}

// Stop ends LocalStack and removes its files. It may be called twice.
func (in *Instance) Stop() {
	if in.cmd != nil {
		_ = in.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-in.done:
		case <-time.After(stopTimeout):
			_ = in.cmd.Process.Kill()
			<-in.done
		}
	}
	_ = os.RemoveAll(in.dir)
}

// Env is what a client needs to use the instance, for a process's environment.
func (in *Instance) Env() []string {
	return []string{
		"AWS_ENDPOINT_URL=" + in.Endpoint,
		"AWS_REGION=us-east-1",
		"AWS_ACCESS_KEY_ID=test",
		"AWS_SECRET_ACCESS_KEY=test",
		"INTEROP=localstack",
	}
}

// Done is closed when LocalStack has ended, by Stop or by itself.
func (in *Instance) Done() <-chan struct{} { return in.done }

func (in *Instance) logFile() string { return filepath.Join(in.dir, "localstack.log") }
