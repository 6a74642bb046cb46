package runner

import (
	"context"
	"fmt"
	"hash/fnv"
	"path/filepath"
	"time"

	"github.com/bullpen-vm/bullpen/diskio"
	"github.com/bullpen-vm/bullpen/result"
)

// keepArtifacts lists what came back and writes it to the host where that is
// wanted. An artifact that cannot be kept is said in the message and changes no
// verdict: fetching is not the test.
func keepArtifacts(ctx context.Context, read *diskio.Results, p part, r *Result, o Options) {
	found, ok := read.Part(p.id)
	if !ok {
		return
	}
	dir := ""
	if o.Artifacts != "" && len(found.Artifacts) > 0 {
		dir = filepath.Join(o.Artifacts, folder(p.id), fmt.Sprintf("attempt-%d", p.attempt))
		bound := o.ReadTimeout
		if bound <= 0 {
			bound = DefaultReadTimeout
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), bound)
		defer cancel()
		if err := read.ExtractArtifacts(ctx, p.id, dir); err != nil {
			note(r, fmt.Sprintf("artifacts were not kept: %v", err))
			logger(o).Warn("runner: artifacts were not kept", "task", p.id, "dir", dir, "error", err)
			dir = ""
		}
	}
	for _, a := range found.Artifacts {
		kept := result.Artifact{Path: a.Path, Size: a.Size, Digest: a.Digest}
		if dir != "" {
			kept.File = filepath.Join(dir, filepath.FromSlash(a.Path))
		}
		r.Artifacts = append(r.Artifacts, kept)
	}
	if n := len(found.Refused); n > 0 {
		note(r, fmt.Sprintf("%d files were not brought back, the first: %s: %s", n, found.Refused[0].Path, found.Refused[0].Reason))
	}
}

// note adds to a result's message.
func note(r *Result, text string) {
	if r.Message != "" {
		r.Message += "; "
	}
	r.Message += text
}

// folder makes one path element of a task's id; different ids give different
// folders.
func folder(id string) string {
	out := make([]byte, 0, len(id))
	for i := range len(id) {
		switch c := id[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_', c == '.' && i > 0:
			out = append(out, c)
		default:
			out = append(out, fmt.Sprintf("%%%02x", c)...)
		}
	}
	const most = 200 // bytes; file systems allow 255
	if len(out) > most {
		h := fnv.New32a()
		h.Write([]byte(id))
		return fmt.Sprintf("%s-%08x", out[:most], h.Sum32())
	}
	return string(out)
}

// output joins what the steps wrote, each below a line of its own where there
// is more than one.
func output(r Result) result.Output {
	var w result.OutputWriter
	write := func(b []byte, cut int64, head int) {
		if cut > 0 && head <= len(b) {
			_, _ = w.Write(b[:head]) // in memory: never fails
			fmt.Fprintf(&w, "\n[... %d bytes cut ...]\n", cut)
			b = b[head:]
		}
		_, _ = w.Write(b)
		if len(b) > 0 && b[len(b)-1] != '\n' {
			fmt.Fprintln(&w)
		}
	}
	for _, s := range r.Steps {
		if len(r.Steps) > 1 && (s.Started || s.Skipped) {
			fmt.Fprintf(&w, "$ %s%s\n", s.Name, fate(s))
		}
		write(s.Stdout, s.StdoutCut, s.StdoutHead)
		write(s.Stderr, s.StderrCut, s.StderrHead)
	}
	if len(r.End.Console) > 0 {
		fmt.Fprintln(&w, "--- last lines of the machine's console")
		write(r.End.Console, 0, 0)
	}
	return w.Output()
}

// fate is how a step ended, in brackets.
func fate(s diskio.StepResult) string {
	switch {
	case s.Skipped:
		return "  (skipped)"
	case !s.Ended:
		return "  (cut short)"
	case s.TimedOut:
		return fmt.Sprintf("  (timed out after %v)", s.Duration.Round(time.Millisecond))
	case !s.OK():
		return fmt.Sprintf("  (exit code %d)", s.Exit)
	}
	return ""
}
