package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// authority is a CA of the test's own, which nobody trusts who was not told to.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	dir  string
	pool *x509.CertPool
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, dir: t.TempDir(), pool: x509.NewCertPool()}
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: "a test's CA"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	a.cert, a.key = a.sign(template)
	a.pool.AddCert(a.cert)
	return a
}

// sign makes a certificate; the first one signs itself.
func (a *authority) sign(template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(a.t, err)
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	require.NoError(a.t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(a.t, err)
	return cert, key
}

// file writes what is PEM and returns its path.
func (a *authority) file(name, kind string, der []byte) string {
	a.t.Helper()
	path := filepath.Join(a.dir, name)
	require.NoError(a.t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
	return path
}

// bundle is the file of those who trust the CA.
func (a *authority) bundle() string { return a.file("ca.pem", "CERTIFICATE", a.cert.Raw) }

// server is the certificate of a server on this machine.
func (a *authority) server() tls.Certificate {
	cert, key := a.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: "server"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key}
}

// client makes the files of a client's certificate and key.
func (a *authority) client() (cert, key string) {
	a.t.Helper()
	c, k := a.sign(&x509.Certificate{
		Subject:  pkix.Name{CommonName: "client"},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	der, err := x509.MarshalECPrivateKey(k)
	require.NoError(a.t, err)
	return a.file("client.pem", "CERTIFICATE", c.Raw), a.file("client.key", "EC PRIVATE KEY", der)
}

// tlsProxy is the only way to a server that itself speaks plain text: who speaks it
// with the proxy is cut off.
type tlsProxy struct {
	address string
	secure  atomic.Int64 // connections whose handshake succeeded
}

// newTLSProxy ends TLS before target. begin, which may be nil, is what a protocol says
// before the handshake.
func newTLSProxy(t *testing.T, target string, cfg *tls.Config, begin func(net.Conn) error) *tlsProxy {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	p := &tlsProxy{address: l.Addr().String()}
	serve := func(raw net.Conn) {
		defer raw.Close()
		if begin != nil && begin(raw) != nil {
			return
		}
		client := tls.Server(raw, cfg)
		if client.Handshake() != nil { //nolint:noctx // a test
			// The client learns why, unless what it has sent meanwhile resets the connection.
			_ = raw.SetReadDeadline(time.Now().Add(time.Second))
			_, _ = io.Copy(io.Discard, raw)
			return
		}
		p.secure.Add(1)
		server, err := net.Dial("tcp", target) //nolint:noctx // a test
		if err != nil {
			return
		}
		defer server.Close()
		go func() {
			_, _ = io.Copy(server, client)
			_ = server.Close()
		}()
		_, _ = io.Copy(client, server)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go serve(c)
		}
	}()
	return p
}

// postgresBegin is how a client of PostgreSQL asks for TLS. Anything else is refused.
func postgresBegin(c net.Conn) error {
	const length, sslRequest = 8, 80877103
	var asked [2]uint32
	if err := binary.Read(c, binary.BigEndian, &asked); err != nil {
		return err
	}
	if asked != [2]uint32{length, sslRequest} {
		return net.ErrClosed
	}
	_, err := c.Write([]byte("S"))
	return err
}
