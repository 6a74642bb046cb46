package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/result"
)

// certificate writes one for the loopback, signed by itself.
func certificate(t *testing.T, dir string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, &key.PublicKey, key)
	require.NoError(t, err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "cert.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "key.pem"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600))
}

func TestConnectionsAreEncryptedWhereThatIsConfigured(t *testing.T) {
	t.Parallel()
	file, dir := site(t, notifying(`"tls_": 0`, ``))
	_, err := load(file)
	require.ErrorContains(t, err, "tls_")
	certificate(t, dir)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "pw"), []byte("solarispasswd"), 0o600))
	text := `{"listen": "127.0.0.1:0", "tls": {"certificate": "cert.pem", "key": "key.pem"},
		"workers": [{"type": "standard", "name": "bot-solaris", "password_file": "pw"}],
		"builders": [{"name": "full", "workers": ["bot-solaris"], "steps": ["true"]}]}`
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	c, err := load(file)
	require.NoError(t, err)
	m, end, err := openMaster(t.Context(), c, discard())
	require.NoError(t, err)
	defer func() { require.NoError(t, end(t.Context())) }()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	var worker sync.WaitGroup
	defer worker.Wait()
	defer cancel()
	worker.Go(func() {
		var out journal
		assert.Equal(t, 0, run(ctx, []string{"worker", "-master", m.address.String(), "-name", "bot-solaris",
			"-password-file", filepath.Join(dir, "pw"), "-dir", filepath.Join(dir, "w"), "-ca", filepath.Join(dir, "cert.pem")}, &out, &out))
	})
	b, err := m.build(ctx, "full", nil)
	require.NoError(t, err)
	require.Equal(t, result.Passed, b.Status, b.Message)

	// In the clear nobody gets in.
	before := m.dialin.Refused()
	conn, err := net.Dial("tcp", m.address.String())
	require.NoError(t, err)
	_, err = conn.Write([]byte("hello in the clear\r\n\r\n"))
	require.NoError(t, err)
	require.Eventually(t, func() bool { return m.dialin.Refused() > before }, limit, 5*time.Millisecond)
	require.NoError(t, conn.Close())
}
