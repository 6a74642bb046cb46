package diskio

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/bullpen-vm/bullpen/internal/wire"
	"github.com/stretchr/testify/require"
)

// exampleDisk is the worked example of PROTOCOL.md.
func exampleDisk(t *testing.T) (*memDisk, Ticket) {
	parts := []Part{{ID: "hello", Job: Job{
		Steps:   []Step{{Name: "echo", Argv: []string{"echo", "hi"}}},
		Files:   []File{{Path: "greeting", Data: []byte("good day\n")}},
		Results: 1,
	}}}
	d := newMemDisk(20480)
	ticket, err := WriteJob(t.Context(), d, d.Size(), parts, &JobOptions{Nonce: "000102030405060708090a0b0c0d0e0f", OutputHead: 1024, OutputTail: 1024})
	require.NoError(t, err)
	at := timeBody{time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	f := newForger(t, d, ticket)
	f.json(recordBegin, noIndex, noIndex, beginBody{Version: 1, Agent: "example", Time: at.Time})
	f.json(recordPartBegin, 0, noIndex, at)
	f.json(recordStepBegin, 0, 0, at)
	f.output(0, 0, Stdout, 0, "hi\n")
	f.json(recordStepEnd, 0, 0, StepEnd{Duration: 1_000_000, Stdout: 3})
	f.file(0, "log", "done\n", "")
	f.json(recordPartEnd, 0, noIndex, partEndBody{})
	f.complete()
	return d, ticket
}

// dump gives lines of offset and bytes, without the zero lines.
func dump(b []byte) string {
	var out strings.Builder
	for at := 0; at < len(b); at += 32 {
		line := b[at:min(at+32, len(b))]
		if len(bytes.Trim(line, "\x00")) == 0 {
			continue
		}
		fmt.Fprintf(&out, "%08x: % x\n", at, line)
	}
	return out.String()
}

// undump reads what dump wrote.
func undump(t *testing.T, text string, size int) []byte {
	b := make([]byte, size)
	for line := range strings.Lines(text) {
		at, data, ok := strings.Cut(strings.TrimSpace(line), ": ")
		require.True(t, ok, line)
		off, err := strconv.ParseUint(at, 16, 32)
		require.NoError(t, err)
		bytesOf, err := hex.DecodeString(strings.ReplaceAll(data, " ", ""))
		require.NoError(t, err)
		copy(b[off:], bytesOf)
	}
	return b
}

func block(name string) *regexp.Regexp {
	return regexp.MustCompile("(?s)(```hex " + name + "\n)(.*?)(```\n)")
}

// With BULLPEN_UPDATE set it writes the example anew.
func TestTheExampleOfTheProtocolIsTrue(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("PROTOCOL.md")
	require.NoError(t, err)
	d, ticket := exampleDisk(t)
	frame, err := wire.Append(nil, wire.Frame{Stream: 1, Kind: wire.KindGo, Body: Go{Disk: 0, Nonce: ticket.Nonce}.Encode()})
	require.NoError(t, err)
	if os.Getenv("BULLPEN_UPDATE") != "" {
		for name, b := range map[string][]byte{"frame": frame, "disk": d.b} {
			text = block(name).ReplaceAll(text, []byte("${1}"+dump(b)+"${3}"))
		}
		require.NoError(t, os.WriteFile("PROTOCOL.md", text, 0o644))
	}

	written := block("frame").FindSubmatch(text)
	require.NotNil(t, written)
	got, err := wire.NewReader(bytes.NewReader(undump(t, string(written[2]), len(frame)))).Next()
	require.NoError(t, err)
	require.Equal(t, wire.KindGo, got.Kind)
	g, err := DecodeGo(got.Body)
	require.NoError(t, err)
	require.Equal(t, ticket.Nonce, g.Nonce)

	written = block("disk").FindSubmatch(text)
	require.NotNil(t, written)
	read := &memDisk{b: undump(t, string(written[2]), len(d.b))}
	require.Equal(t, dump(d.b), dump(read.b), "the document's bytes are those of the format; set BULLPEN_UPDATE to write them anew")
	j, err := OpenJob(read, read.Size(), g.Nonce)
	require.NoError(t, err)
	require.Equal(t, []string{"echo", "hi"}, j.Parts()[0].Steps[0].Argv)
	res, err := ReadResults(t.Context(), read, read.Size(), ticket, nil)
	require.NoError(t, err)
	require.True(t, res.Complete, res.Damage)
	require.True(t, res.Parts[0].OK())
	require.Equal(t, "hi\n", string(res.Parts[0].Steps[0].Stdout))
	require.Equal(t, "log", res.Parts[0].Artifacts[0].Path)
}

// The numbers in the tables of PROTOCOL.md that no example shows.
func TestTheTablesOfTheProtocolAreTrue(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("PROTOCOL.md")
	require.NoError(t, err)
	doc := string(text)
	for name, n := range map[string]recordType{"begin": recordBegin, "part begins": recordPartBegin, "step begins": recordStepBegin, "output": recordOutput,
		"step ended": recordStepEnd, "file": recordFile, "chunk": recordChunk, "file ended": recordFileEnd, "note": recordNote,
		"part ended": recordPartEnd, "fault": recordFault, "overflow": recordOverflow, "completion": recordComplete} {
		row := regexp.MustCompile(fmt.Sprintf(`(?m)^\| %d %s \|.*\| (\S+)( \S+)? \|$`, n, name)).FindStringSubmatch(doc)
		require.NotNil(t, row, name)
		size, err := strconv.Atoi(row[1])
		require.NoError(t, err)
		switch row[2] {
		case " KiB":
			size <<= 10
		case " MiB":
			size <<= 20
		}
		require.Equal(t, bodyLimit(n), size, name)
	}
	for name, k := range map[string]wire.Kind{"hello": wire.KindHello, "welcome": wire.KindWelcome, "refused": wire.KindRefused, "ready": wire.KindReady,
		"ping": wire.KindPing, "pong": wire.KindPong, "power off": wire.KindPowerOff, "go": wire.KindGo, "done": wire.KindDone, "cancel": wire.KindCancel,
		"fault": wire.KindFault, "exec": wire.KindExec, "stdin": wire.KindStdin, "stdout": wire.KindStdout, "stderr": wire.KindStderr, "exit": wire.KindExit,
		"window": wire.KindWindow, "put": wire.KindPut, "get": wire.KindGet, "data": wire.KindData, "copied": wire.KindCopied, "progress": wire.KindMessage} {
		require.Regexp(t, fmt.Sprintf(`(?m)^\| (\d+ \w+, )?%d %s[, |]`, k, name), doc)
	}
	require.Contains(t, doc, fmt.Sprintf("direction %d bytes", wire.InitialWindow))
}
