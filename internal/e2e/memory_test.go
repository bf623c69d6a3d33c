package e2e

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// acceptsAll answers as SQS does, after the time of a way to AWS, and keeps nothing.
func acceptsAll(w http.ResponseWriter, r *http.Request) {
	if !strings.HasSuffix(r.Header.Get("X-Amz-Target"), ".SendMessageBatch") {
		_, _ = io.WriteString(w, `{"Attributes":{}}`)
		return
	}
	var answer bytes.Buffer
	answer.WriteString(`{"Failed":[],"Successful":[`)
	body := bufio.NewReaderSize(r.Body, 64<<10)
	for n := 0; ; {
		text, err := body.ReadSlice(':')
		if bytes.HasSuffix(text, []byte(`,"MessageBody":`)) {
			if n > 0 {
				answer.WriteByte(',')
			}
			fmt.Fprintf(&answer, `{"Id":"%d","MessageId":"m","MD5OfMessageBody":"d"}`, n)
			n++
		}
		if err != nil && err != bufio.ErrBufferFull { //nolint:errorlint // as bufio returns it
			break
		}
	}
	answer.WriteString(`]}`)
	time.Sleep(15 * time.Millisecond)
	_, _ = w.Write(answer.Bytes())
}

// peakMemory is the most memory that a process had, in MiB.
func peakMemory(t *testing.T, pid int) float64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	require.NoError(t, err)
	_, peak, found := strings.Cut(string(status), "VmHWM:")
	require.True(t, found)
	kib, err := strconv.ParseFloat(strings.Fields(peak)[0], 64)
	require.NoError(t, err)
	return kib / 1024
}

func TestMemory_OfAWorkerIsBoundedWhateverThePayloadsAndTopics(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("memory is read from /proc")
	}
	aws := httptest.NewServer(http.HandlerFunc(acceptsAll))
	defer aws.Close()
	const topics, events, size = 8, 150, 200 << 10
	config := "topics:\n"
	for i := range topics {
		config += fmt.Sprintf("  t%d: {sqs: %s/1/t%d}\n", i, aws.URL, i)
	}
	o := newOutbox(t, config)
	for i := range topics {
		o.exec(`INSERT INTO outbox.event (topic, key, type, payload)
		        SELECT $1, 'key-' || i % 100, 'Tested', repeat('{"text":"0123456789abcdef"},', $3 / 28) || i FROM generate_series(1, $2::int) i`,
			fmt.Sprint("t", i), events, size)
	}
	w := o.work("AWS_ENDPOINT_URL="+aws.URL, "AWS_REGION=eu-west-1", "AWS_ACCESS_KEY_ID=id", "AWS_SECRET_ACCESS_KEY=secret")
	o.schedule()
	o.drained(2 * time.Minute)
	peak := peakMemory(t, w.cmd.Process.Pid)
	t.Logf("%.0f MiB for %d MiB of payloads", peak, topics*events*size>>20)
	require.Less(t, peak, 200.0)
}
