package sink

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/temporal-outbox/relay/internal/stack"
)

// controlPath begins the paths of the requests that no AWS client sends.
const controlPath = "/-/sink/"

// control answers the requests of Process, and returns false for others.
func (s *Server) control(w http.ResponseWriter, r *http.Request) bool {
	action, ours := strings.CutPrefix(r.URL.Path, controlPath)
	if !ours {
		return false
	}
	in := r.URL.Query()
	number := func(name string) int {
		n, _ := strconv.Atoi(in.Get(name))
		return n
	}
	switch action {
	case "reset":
		s.Reset(number("events"))
	case "behave":
		s.Behave(in.Get("queue"), Behaviour{Delay: time.Duration(number("delay")), Refuse: in.Get("refuse") == "true"})
	case "state":
		_ = json.NewEncoder(w).Encode(s.record.Load().state())
	case "acks":
		rec := s.record.Load()
		from := min(number("from"), len(rec.acks))
		out := bufio.NewWriter(w)
		for i := range rec.acks[from:min(from+number("n"), len(rec.acks))] {
			stamp, at := rec.acks[from+i].Load(), int64(0)
			if stamp != 0 {
				at = rec.time(stamp).UnixNano()
			}
			_ = binary.Write(out, binary.LittleEndian, [2]int64{at, stamp & 0xff})
		}
		_ = out.Flush()
	default:
		http.NotFound(w, r)
	}
	return true
}

// Reset forgets all that has arrived. The sink then notes the times of events 0 to events-1.
func (s *Server) Reset(events int) { s.record.Store(newRecord(events)) }

// Behaviour is how a queue treats requests.
type Behaviour struct {
	// Delay is the time between a request and its answer.
	Delay time.Duration
	// Refuse answers every request with status 503, at once.
	Refuse bool
}

// Behave sets the behaviour of one queue or, without a name, of all queues: those that are
// known, and those to come.
func (s *Server) Behave(name string, b Behaviour) {
	s.mu.Lock()
	defer s.mu.Unlock()
	set := func(q *queue) {
		q.delay.Store(int64(b.Delay))
		q.refuse.Store(b.Refuse)
	}
	if name != "" {
		set(s.locked(name))
		return
	}
	s.standard = b
	for _, q := range s.queues {
		set(q)
	}
}

// childVariable marks a process that Start has started.
const childVariable = "OUTBOX_BENCH_SINK"

// processName is the sink's name in lists of processes.
const processName = "sink"

// RunIfChild serves and never returns in a process that Start has started, and does nothing
// in any other. A program that calls Start must call it first.
func RunIfChild() {
	if os.Getenv(childVariable) == "" {
		return
	}
	if err := serve(); err != nil {
		fmt.Fprintln(os.Stderr, "sink:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// serve prints the sink's URL and serves until standard input ends.
func serve() error {
	_ = os.WriteFile("/proc/self/comm", []byte(processName), 0) // elsewhere, the processor time has another name
	listener, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	fmt.Println("http://" + listener.Addr().String())
	server := &http.Server{Handler: New(), ReadHeaderTimeout: time.Minute}
	return server.Serve(listener)
}

// Process is a sink that runs as a process of its own.
type Process struct {
	// URL is its endpoint, for AWS_ENDPOINT_URL.
	URL string

	cmd   *exec.Cmd
	stdin io.Closer
}

// Start runs this program once more as a sink. RunIfChild says what the program must do. The
// process ends with Close, or with this one.
func Start(ctx context.Context) (*Process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("start the sink: %w", err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), childVariable+"=1", "GOGC=400")
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("start the sink: %w", err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start the sink: %w", err)
	}
	stack.DieWithParent(cmd, syscall.SIGKILL)
	if err := stack.StartChild(cmd); err != nil {
		return nil, fmt.Errorf("start the sink: %w", err)
	}
	p := &Process{cmd: cmd, stdin: stdin}
	line := make(chan string, 1)
	go func() {
		text, _ := bufio.NewReader(stdout).ReadString('\n')
		line <- strings.TrimSpace(text)
	}()
	select {
	case p.URL = <-line:
	case <-ctx.Done():
		err = context.Cause(ctx)
	case <-time.After(20 * time.Second):
	}
	if p.URL == "" {
		p.Close()
		return nil, fmt.Errorf("start the sink: it did not say its address: %w", err)
	}
	return p, nil
}

// Close ends the process.
func (p *Process) Close() {
	_ = p.stdin.Close()
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

// PID is the number of the process.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// QueueURL is the URL of a queue.
func (p *Process) QueueURL(name string) string { return p.URL + "/" + account + "/" + name }

// ask sends a request of control and hands its answer to read.
func (p *Process) ask(ctx context.Context, action string, in url.Values, read func(io.Reader) error) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.URL+controlPath+action+"?"+in.Encode(), nil)
	if err != nil {
		return fmt.Errorf("ask the sink for %s: %w", action, err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("ask the sink for %s: %w", action, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("ask the sink for %s: status %s", action, resp.Status)
	}
	if read == nil {
		return nil
	}
	if err := read(resp.Body); err != nil {
		return fmt.Errorf("ask the sink for %s: %w", action, err)
	}
	return nil
}

// Reset is Server.Reset.
func (p *Process) Reset(ctx context.Context, events int) error {
	return p.ask(ctx, "reset", url.Values{"events": {strconv.Itoa(events)}}, nil)
}

// Behave is Server.Behave.
func (p *Process) Behave(ctx context.Context, queue string, b Behaviour) error {
	return p.ask(ctx, "behave", url.Values{
		"queue": {queue}, "delay": {strconv.FormatInt(int64(b.Delay), 10)}, "refuse": {strconv.FormatBool(b.Refuse)},
	}, nil)
}

// State counts the arrivals since the last Reset.
func (p *Process) State(ctx context.Context) (s State, err error) {
	err = p.ask(ctx, "state", nil, func(r io.Reader) error { return json.NewDecoder(r).Decode(&s) })
	return s, err
}

// Acks returns the first acknowledgements of events from to from+n-1.
func (p *Process) Acks(ctx context.Context, from, n int) ([]Ack, error) {
	acks := make([]Ack, n)
	err := p.ask(ctx, "acks", url.Values{"from": {strconv.Itoa(from)}, "n": {strconv.Itoa(n)}}, func(r io.Reader) error {
		in := bufio.NewReader(r)
		for i := range acks {
			var ack [16]byte
			if _, err := io.ReadFull(in, ack[:]); err != nil {
				return err
			}
			if at := binary.LittleEndian.Uint64(ack[:8]); at != 0 {
				acks[i] = Ack{At: time.Unix(0, int64(at)), By: int(ack[8])} //nolint:gosec // a time
			}
		}
		return nil
	})
	return acks, err
}
