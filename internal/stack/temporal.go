package stack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/log"
)

const (
	namespace = "default"
	// namedLimit is how long a part that the environment names may take to answer.
	namedLimit = 10 * time.Second
)

// dynamicConfig removes a delay of 50 ms at each step in the dev server: it has one history
// shard, and polls its queues 20 times a second. Clusters have hundreds of shards.
var dynamicConfig = []string{
	"system.enableActivityEagerExecution=true",
	"history.transferProcessorMaxPollRPS=1000",
	"history.timerProcessorMaxPollRPS=1000",
}

func (s *Stack) startTemporal(ctx context.Context, step *step) (*service, error) {
	if address := s.opt.Getenv("TEMPORAL_ADDRESS"); address != "" {
		return s.namedTemporal(ctx, address)
	}
	program, err := s.temporalProgram(ctx, step)
	if err != nil {
		return nil, err
	}
	return s.withPorts(2, func(ports []int) (*service, error) {
		args := []string{
			"server", "start-dev", "--ip", "127.0.0.1", "--log-level", "error",
			"--port", strconv.Itoa(ports[0]), "--ui-port", strconv.Itoa(ports[1]),
		}
		for _, kv := range append(strings.Fields(s.opt.Getenv("OUTBOX_TEMPORAL_CONFIG")), dynamicConfig...) {
			args = append(args, "--dynamic-config-value", kv)
		}
		if s.opt.Durable {
			// Only the process is killed, and not the machine, so no write has to wait for the disk.
			args = append(args, "--db-filename", s.dir.file("temporal.db"),
				"--sqlite-pragma", "journal_mode=wal", "--sqlite-pragma", "synchronous=0")
		}
		address := fmt.Sprintf("127.0.0.1:%d", ports[0])
		ui := fmt.Sprintf("http://127.0.0.1:%d", ports[1])
		var version string
		launchServer := func(ctx context.Context) (*process, error) {
			cmd := exec.Command(program, args...)
			cmd.Dir = s.dir.path
			// A clean shutdown would save nothing.
			proc, err := launch(cmd, s.dir.file("temporal-"+strconv.Itoa(ports[0])+".log"), syscall.SIGKILL)
			if err != nil {
				return nil, err
			}
			s.dir.own(proc)
			return proc, ready(ctx, proc, 90*time.Second, func(ctx context.Context) (err error) {
				if version, err = temporalAnswers(ctx, client.Options{HostPort: address}); err != nil {
					return err
				}
				return httpAnswers(ctx, ui)
			})
		}
		proc, err := launchServer(ctx)
		if err != nil {
			return nil, err
		}
		again := launchServer
		if !s.opt.Durable {
			again = nil
		}
		return &service{
			about: fmt.Sprintf("Temporal %s on %s, UI %s", version, address, ui),
			env: []string{
				"TEMPORAL_ADDRESS=" + address, "TEMPORAL_UI_URL=" + ui,
				// A profile for another cluster would bring its TLS and API key along.
				"TEMPORAL_CONFIG_FILE=" + os.DevNull,
			},
			unset: temporalVariables,
			proc:  proc,
			again: again,
		}, nil
	})
}

// temporalVariables belong to a connection that is not used.
var temporalVariables = []string{
	"TEMPORAL_PROFILE", "TEMPORAL_NAMESPACE", "TEMPORAL_API_KEY", "TEMPORAL_TLS",
	"TEMPORAL_TLS_CLIENT_CERT_PATH", "TEMPORAL_TLS_CLIENT_CERT_DATA", "TEMPORAL_TLS_CLIENT_KEY_PATH",
	"TEMPORAL_TLS_CLIENT_KEY_DATA", "TEMPORAL_TLS_SERVER_CA_CERT_PATH", "TEMPORAL_TLS_SERVER_CA_CERT_DATA",
	"TEMPORAL_TLS_SERVER_NAME", "TEMPORAL_TLS_DISABLE_HOST_VERIFICATION",
}

// temporalAnswers succeeds once the namespace can be used. On a fresh server, that is a
// moment after the port answers.
func temporalAnswers(ctx context.Context, options client.Options) (version string, err error) {
	options.Logger = log.NewStructuredLogger(slog.New(slog.DiscardHandler))
	c, err := client.NewLazyClient(options)
	if err != nil {
		return "", err
	}
	defer c.Close()
	info, err := c.WorkflowService().GetSystemInfo(ctx, &workflowservice.GetSystemInfoRequest{})
	if err != nil {
		return "", err
	}
	name := options.Namespace
	if name == "" {
		name = namespace
	}
	_, err = c.WorkflowService().CountWorkflowExecutions(ctx, &workflowservice.CountWorkflowExecutionsRequest{Namespace: name})
	return info.GetServerVersion(), err
}

func httpAnswers(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	return nil
}
