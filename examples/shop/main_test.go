package main

import (
	"bytes"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/stretchr/testify/require"
)

func TestOptions_LoseATopicOnlyOnAnEmulatorAndWithTimeForIt(t *testing.T) {
	emulator := aws.Config{BaseEndpoint: aws.String("http://127.0.0.1:4566")}
	o := options{length: 10 * time.Second, drain: time.Second, rate: 1, broken: true}
	require.NoError(t, o.validate(emulator))
	require.ErrorContains(t, o.validate(aws.Config{}), "AWS_ENDPOINT_URL")
	o.length--
	require.ErrorContains(t, o.validate(emulator), "10s or more")
	o.broken = false
	require.NoError(t, o.validate(aws.Config{}))
	o.rate = 0
	require.ErrorContains(t, o.validate(aws.Config{}), "must be positive")
}

func TestVersion_SaysTheRevisionOfTheBuild(t *testing.T) {
	var out bytes.Buffer
	cmd := root()
	cmd.SetOut(&out)
	cmd.SetArgs([]string{"--version"})
	require.NoError(t, cmd.Execute())
	require.Regexp(t, `^shop version \S+ \(.*go1\.`, out.String())
}
