package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"mime"
	"mime/quotedprintable"
	"net"
	"net/smtp"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/bullpen-vm/bullpen/result"
)

const (
	defaultRelay = "localhost:25"
	mailTimeout  = time.Minute // of one try
	mailTries    = 6
	mailPause    = time.Minute // before the second try, doubled for each
	mostMails    = 1000        // that wait for the relay host
)

// message is one mail.
type message struct {
	to            []string
	subject, body string
}

// post hands one mail to a relay host. sure: it was not taken, so it may be tried
// again.
type post func(ctx context.Context, relay, from string, to []string, text []byte) (sure bool, err error)

// mailer sends mails one after the other. newMailer makes it, close ends it.
type mailer struct {
	from, relay string
	to          addresses
	about       func(builder string) bool // which builds are told of
	post        post
	log         *slog.Logger
	queue       chan message
	closing     context.Context
	shut        context.CancelFunc
	done        sync.WaitGroup
}

// newMailer takes the defaults where no notifier is configured: mails about missing
// workers from bullpen at this host, by the relay host on this one, and none about
// builds.
func newMailer(c *mailConfig, p post, log *slog.Logger) *mailer {
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "localhost"
	}
	m := &mailer{from: "bullpen@" + host, relay: defaultRelay, post: p, log: log, queue: make(chan message, mostMails)}
	m.about = func(string) bool { return false }
	if c != nil {
		if c.From != "" {
			m.from = c.From
		}
		if c.Relay != "" {
			m.relay = c.Relay
			if _, _, err := net.SplitHostPort(m.relay); err != nil {
				m.relay = net.JoinHostPort(m.relay, "25")
			}
		}
		m.to = c.To
		m.about = func(builder string) bool { return c.Builders == nil || slices.Contains(*c.Builders, builder) }
	}
	if m.post == nil {
		m.post = postSMTP
	}
	m.closing, m.shut = context.WithCancel(context.Background())
	m.done.Go(m.run)
	return m
}

// close gives up what waits, and says so in the log.
func (m *mailer) close() {
	m.shut()
	m.done.Wait()
	for {
		select {
		case w := <-m.queue:
			m.log.Error("a mail was not sent: the master ends", "to", w.to, "subject", w.subject)
		default:
			return
		}
	}
}

// built tells of a build that did not pass, where that is asked for.
func (m *mailer) built(b build) {
	if b.Status == result.Passed || !m.about(b.Builder) {
		return
	}
	m.send(message{to: m.to, subject: fmt.Sprintf("build %s #%d %s", b.Builder, b.Number, b.Status), body: b.String() + "\n\n" + b.Output})
}

// send never waits.
func (m *mailer) send(w message) {
	select {
	case m.queue <- w:
	default:
		m.log.Error("a mail was dropped: too many wait", "to", w.to, "subject", w.subject)
	}
}

func (m *mailer) run() {
	for {
		select {
		case w := <-m.queue:
			m.deliver(w)
		case <-m.closing.Done():
			return
		}
	}
}

// deliver tries until the relay host took the mail, or may have taken it: a second
// mail is worse than a lost one.
func (m *mailer) deliver(w message) {
	text := w.text(m.from, time.Now())
	pause := mailPause
	for try := 1; ; try++ {
		ctx, cancel := context.WithTimeout(m.closing, mailTimeout)
		sure, err := m.post(ctx, m.relay, m.from, w.to, text)
		cancel()
		if err == nil {
			m.log.Info("a mail was sent", "to", w.to, "subject", w.subject, "relay", m.relay)
			return
		}
		m.log.Error("a mail could not be sent", "to", w.to, "subject", w.subject, "relay", m.relay, "try", try, "again", sure && try < mailTries, "error", err)
		if !sure || try == mailTries {
			return
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-m.closing.Done():
			timer.Stop()
			return
		}
		pause *= 2
	}
}

// text is the mail as it is sent (RFC 5322, RFC 2045).
func (w message) text(from string, now time.Time) []byte {
	var b strings.Builder
	_, domain, _ := strings.Cut(from, "@")
	for _, line := range [][2]string{
		{"From", from}, {"To", strings.Join(w.to, ", ")}, {"Subject", mime.QEncoding.Encode("utf-8", w.subject)},
		{"Date", now.Format(time.RFC1123Z)}, {"Message-ID", "<" + rand.Text() + "@" + domain + ">"},
		{"MIME-Version", "1.0"}, {"Content-Type", "text/plain; charset=utf-8"}, {"Content-Transfer-Encoding", "quoted-printable"},
		{"Auto-Submitted", "auto-generated"},
	} {
		b.WriteString(line[0] + ": " + line[1] + "\r\n")
	}
	b.WriteString("\r\n")
	q := quotedprintable.NewWriter(&b)
	_, _ = q.Write([]byte(w.body)) // in memory: it cannot fail
	_ = q.Close()
	return []byte(b.String())
}

// postSMTP speaks SMTP with the relay host (RFC 5321), encrypted where it offers
// that. It does not log in: the relay host takes mails from this machine.
func postSMTP(ctx context.Context, relay, from string, to []string, text []byte) (sure bool, err error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", relay)
	if err != nil {
		return true, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	host, _, _ := net.SplitHostPort(relay)
	c, err := smtp.NewClient(conn, host)
	if err != nil {
		return true, errors.Join(err, conn.Close())
	}
	defer c.Close()
	if ok, _ := c.Extension("STARTTLS"); ok {
		if err := c.StartTLS(&tls.Config{ServerName: host, MinVersion: tls.VersionTLS12}); err != nil {
			return true, err
		}
	}
	if err := c.Mail(from); err != nil {
		return true, err
	}
	for _, a := range to {
		if err := c.Rcpt(a); err != nil {
			return true, fmt.Errorf("%s: %w", a, err)
		}
	}
	body, err := c.Data()
	if err != nil {
		return true, err
	}
	if _, err := body.Write(text); err != nil {
		return true, err // without its end the mail does not count
	}
	if err := body.Close(); err != nil {
		return false, err
	}
	_ = c.Quit() // it was taken
	return true, nil
}
