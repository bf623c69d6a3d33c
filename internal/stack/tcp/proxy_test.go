package tcp

import (
	"bufio"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// echo is a server that repeats lines.
func echo(t *testing.T) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(c, c); _ = c.Close() }()
		}
	}()
	p, err := New(t.Context(), l.Addr().String())
	require.NoError(t, err)
	t.Cleanup(p.Close)
	return p
}

func dial(t *testing.T, p *Proxy) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", p.Address())
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	require.NoError(t, c.SetDeadline(time.Now().Add(10*time.Second)))
	return c
}

func say(c net.Conn) (string, error) {
	if _, err := io.WriteString(c, "hello\n"); err != nil {
		return "", err
	}
	return bufio.NewReader(c).ReadString('\n')
}

func TestProxy_ForwardsBothDirectionsAndDelaysEach(t *testing.T) {
	p := echo(t)
	c := dial(t, p)
	text, err := say(c)
	require.NoError(t, err)
	require.Equal(t, "hello\n", text)
	p.Delay(50 * time.Millisecond)
	began := time.Now()
	_, err = say(c)
	require.NoError(t, err)
	require.GreaterOrEqual(t, time.Since(began), 100*time.Millisecond, "once in each direction")
}

func TestReset_BreaksOpenConnectionsOnly(t *testing.T) {
	p := echo(t)
	c := dial(t, p)
	_, err := say(c)
	require.NoError(t, err)
	require.Equal(t, 1, p.Reset())
	_, err = say(c)
	require.Error(t, err)
	_, err = say(dial(t, p))
	require.NoError(t, err)
}

func TestCut_LastsUntilRestore(t *testing.T) {
	p := echo(t)
	p.Cut()
	c, err := net.Dial("tcp", p.Address())
	if err == nil { // else it was quicker than we
		_, err = say(c)
	}
	require.Error(t, err)
	p.Restore()
	_, err = say(dial(t, p))
	require.NoError(t, err)
}

func TestRedirect_CutsTheOldAddressAndSendsNewConnectionsToTheOther(t *testing.T) {
	p, other := echo(t), echo(t)
	c := dial(t, p)
	_, err := say(c)
	require.NoError(t, err)
	p.Redirect(other.Address())
	_, err = say(c)
	require.Error(t, err)
	_, err = say(dial(t, p))
	require.NoError(t, err)
	require.Equal(t, 1, other.Reset(), "the new connection goes to the other address")
}
