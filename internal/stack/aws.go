package stack

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
)

const (
	// emulatorVersion is the last one that runs on Node 20.
	emulatorVersion = "1.9.2"
	oldestNode      = 20
	region          = "us-east-1"
)

// emulatorJS starts the emulator as a library: its own command listens on all
// interfaces and logs every request.
//
//go:embed emulator.mjs
var emulatorJS string

func (s *Stack) startAWS(ctx context.Context, step *step) (*service, error) {
	if endpoint := s.opt.Getenv("AWS_ENDPOINT_URL"); endpoint != "" {
		return s.namedAWS(ctx, endpoint)
	}
	node, err := findNode(ctx)
	if err != nil {
		return nil, err
	}
	home, err := s.emulatorHome(ctx, step)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(node, "--input-type=module", "--eval", emulatorJS)
	cmd.Dir = home
	cmd.Env = append(os.Environ(), "NODE_ENV=production", "OUTBOX_REGION="+region)
	urls, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	proc, err := launch(cmd, s.dir.file("aws.log"), syscall.SIGKILL)
	if err != nil {
		return nil, err
	}
	s.dir.own(proc)
	endpoint, err := firstLine(ctx, urls, 60*time.Second)
	if err != nil {
		return nil, proc.failure(fmt.Errorf("read its address: %w", err))
	}
	creds := []string{"AWS_ACCESS_KEY_ID=test", "AWS_SECRET_ACCESS_KEY=test"}
	if err := ready(ctx, proc, 10*time.Second, func(ctx context.Context) error { return httpAnswers(ctx, endpoint+"/health") }); err != nil {
		return nil, err
	}
	return &service{
		about: fmt.Sprintf("SNS and SQS (fauxqs %s) on %s", emulatorVersion, endpoint),
		env:   append([]string{"AWS_ENDPOINT_URL=" + endpoint, "AWS_REGION=" + region}, creds...),
		// Real credentials and other endpoints must not get in.
		unset: []string{
			"AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL_SNS",
			"AWS_ENDPOINT_URL_SQS", "AWS_ENDPOINT_URL_STS", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS",
		},
		proc: proc,
	}, nil
}

// emulatorHome is the npm prefix that holds the pinned emulator.
func (s *Stack) emulatorHome(ctx context.Context, step *step) (string, error) {
	home := filepath.Join(s.opt.ToolsDir, "fauxqs-"+emulatorVersion)
	err := install(ctx, step, home, "installing the emulator with npm, once", func(dir string) error {
		cmd := exec.Command("npm", "install", "--prefix", dir, "--no-audit", "--no-fund",
			"--ignore-scripts", "fauxqs@"+emulatorVersion)
		cmd.Dir = dir
		return run(ctx, cmd, s.dir.file("npm.log"))
	})
	if err != nil {
		return "", remedy(fmt.Errorf("install the emulator: %w", err),
			"make npm and its registry reachable, or set AWS_ENDPOINT_URL to an SNS/SQS endpoint that runs, such as LocalStack")
	}
	step.fast()
	return home, nil
}

var nodeMajor = regexp.MustCompile(`^v(\d+)\.`)

func findNode(ctx context.Context) (string, error) {
	hint := fmt.Sprintf("install Node.js %d or later with npm, or set AWS_ENDPOINT_URL to an SNS/SQS endpoint that runs", oldestNode)
	node, err := exec.LookPath("node")
	if err != nil {
		return "", remedy(errors.New("the emulator needs Node.js, and there is no `node` on PATH"), hint)
	}
	out, err := exec.CommandContext(ctx, node, "--version").Output()
	if err != nil {
		return "", remedy(fmt.Errorf("ask Node.js for its version: %w", err), hint)
	}
	version := strings.TrimSpace(string(out))
	match := nodeMajor.FindStringSubmatch(version)
	if match == nil {
		return "", remedy(fmt.Errorf("unexpected version %q of Node.js", version), hint)
	}
	if major, _ := strconv.Atoi(match[1]); major < oldestNode {
		return "", remedy(fmt.Errorf("the emulator needs Node.js %d or later, and %s is %s", oldestNode, node, version), hint)
	}
	return node, nil
}

// namedAWS checks an endpoint that runs already. Credentials are those that the AWS SDK
// finds. If the environment has none, they are the emulators' "test".
func (s *Stack) namedAWS(ctx context.Context, endpoint string) (*service, error) {
	env := []string{"AWS_ENDPOINT_URL=" + endpoint, "AWS_REGION=" + orDefault(s.opt.Getenv("AWS_REGION"), region)}
	load := []func(*config.LoadOptions) error{
		config.WithRegion(orDefault(s.opt.Getenv("AWS_REGION"), region)), config.WithBaseEndpoint(endpoint), config.WithRetryMaxAttempts(1),
	}
	switch key := s.opt.Getenv("AWS_ACCESS_KEY_ID"); {
	case key != "":
		env = append(env, "AWS_ACCESS_KEY_ID="+key, "AWS_SECRET_ACCESS_KEY="+s.opt.Getenv("AWS_SECRET_ACCESS_KEY"))
	case s.opt.Getenv("AWS_PROFILE") == "":
		env = append(env, "AWS_ACCESS_KEY_ID=test", "AWS_SECRET_ACCESS_KEY=test")
		load = append(load, config.WithCredentialsProvider(testCredentials))
	}
	cfg, err := config.LoadDefaultConfig(ctx, load...)
	if err != nil {
		return nil, fmt.Errorf("read AWS's configuration: %w", err)
	}
	err = ready(ctx, nil, namedLimit, func(ctx context.Context) error {
		_, err := sqs.NewFromConfig(cfg).ListQueues(ctx, &sqs.ListQueuesInput{})
		return err
	})
	if err != nil {
		return nil, remedy(fmt.Errorf("AWS_ENDPOINT_URL=%s does not answer: %w", endpoint, err),
			"start it, or unset AWS_ENDPOINT_URL to have an emulator started here")
	}
	return &service{about: "SNS and SQS on " + endpoint + ", as AWS_ENDPOINT_URL says", env: env}, nil
}

var testCredentials = aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
	return aws.Credentials{AccessKeyID: "test", SecretAccessKey: "test"}, nil
})
