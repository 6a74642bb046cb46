package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/mail"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/lease"
)

// relay is an SMTP server (RFC 5321) on the loopback that keeps what it takes.
type relay struct {
	address string
	taken   chan envelope
}

type envelope struct {
	from string
	to   []string
	text string
}

func newRelay(t *testing.T) *relay {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	r := &relay{address: l.Addr().String(), taken: make(chan envelope, 100)}
	var work sync.WaitGroup
	work.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			work.Go(func() { r.serve(conn) })
		}
	})
	t.Cleanup(func() {
		require.NoError(t, l.Close())
		work.Wait()
	})
	return r
}

func (r *relay) serve(conn net.Conn) {
	defer conn.Close()
	say := func(line string) { fmt.Fprintf(conn, "%s\r\n", line) }
	say("220 relay.test ESMTP")
	var e envelope
	for in := bufio.NewReader(conn); ; {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		line = strings.TrimRight(line, "\r\n")
		switch verb := strings.ToUpper(line); {
		case strings.HasPrefix(verb, "EHLO"), strings.HasPrefix(verb, "HELO"):
			say("250 relay.test")
		case strings.HasPrefix(verb, "MAIL FROM:"):
			e = envelope{from: between(line)}
			say("250 ok")
		case strings.HasPrefix(verb, "RCPT TO:"):
			e.to = append(e.to, between(line))
			say("250 ok")
		case verb == "DATA":
			say("354 go on")
			var text strings.Builder
			for {
				line, err := in.ReadString('\n')
				if err != nil {
					return
				}
				if line == ".\r\n" {
					break
				}
				text.WriteString(strings.TrimPrefix(line, "."))
			}
			e.text = text.String()
			r.taken <- e
			say("250 taken")
		case verb == "QUIT":
			say("221 bye")
			return
		default:
			say("502 what?")
		}
	}
}

func between(line string) string {
	_, rest, _ := strings.Cut(line, "<")
	address, _, _ := strings.Cut(rest, ">")
	return address
}

func TestAMissingWorkerIsToldByTrueSMTPToAllAddressesInOneMail(t *testing.T) {
	t.Parallel()
	r := newRelay(t)
	c, err := parse([]byte(notifying(
		`"notify_on_missing": ["bob@example.com", "alice@example.org"], "missing_timeout": 0.05`,
		`, "mail": {"from": "buildbot@localhost", "relayhost": "`+r.address+`", "builders": []}`)), t.TempDir())
	require.NoError(t, err)
	m, err := newMaster(c, parts{store: lease.NewMemStore(), noLock: true, dir: t.TempDir(), log: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	defer func() { require.NoError(t, m.close(t.Context())) }()
	var e envelope
	select {
	case e = <-r.taken:
	case <-time.After(limit):
		require.Fail(t, "no mail")
	}
	assert.Equal(t, "buildbot@localhost", e.from)
	assert.Equal(t, []string{"bob@example.com", "alice@example.org"}, e.to)
	got, err := mail.ReadMessage(strings.NewReader(e.text))
	require.NoError(t, err)
	assert.Equal(t, "worker bot-solaris is missing", got.Header.Get("Subject"))
	assert.Equal(t, "buildbot@localhost", got.Header.Get("From"))
	to, err := got.Header.AddressList("To")
	require.NoError(t, err)
	assert.Len(t, to, 2)
	_, err = got.Header.Date()
	require.NoError(t, err)
	body, err := io.ReadAll(got.Body)
	require.NoError(t, err)
	assert.Contains(t, string(body), "it has not connected since the master was started")
}

func TestALineWithADotAndLongLinesReachTheRelayWhole(t *testing.T) {
	t.Parallel()
	r := newRelay(t)
	w := message{to: []string{"bob@example.com"}, subject: "größer\r\nX-Bad: yes", body: ".\nalone\n" + strings.Repeat("x", 5000) + "\n"}
	sure, err := postSMTP(t.Context(), r.address, "a@localhost", w.to, w.text("a@localhost", time.Now()))
	require.NoError(t, err)
	require.True(t, sure)
	got, err := mail.ReadMessage(strings.NewReader((<-r.taken).text))
	require.NoError(t, err)
	assert.Empty(t, got.Header.Get("X-Bad"), "a subject adds no header")
	body, err := io.ReadAll(got.Body)
	require.NoError(t, err)
	assert.True(t, strings.HasPrefix(string(body), ".\r\nalone\r\n"))
	for line := range strings.Lines(string(body)) {
		assert.LessOrEqual(t, len(line), 78)
	}
}

func TestARelayHostThatIsNotThereMayBeTriedAgain(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, l.Close())
	sure, err := postSMTP(context.WithoutCancel(t.Context()), l.Addr().String(), "a@localhost", []string{"b@localhost"}, []byte("x"))
	require.Error(t, err)
	require.True(t, sure)
}
