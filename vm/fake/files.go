package fake

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/bullpen-vm/bullpen/internal/wire"
)

// file is one file on a guest's root disk.
type file struct {
	data []byte
	mode fs.FileMode
	time time.Time
}

// put takes files from the host.
func (a *agent) put(s *stream, body []byte) (wire.Kind, any) {
	var c wire.Copy
	if err := wire.Decode(wire.KindPut, body, &c); err != nil {
		return wire.KindFault, wire.Fault{Error: err.Error()}
	}
	var done wire.Copied
	var in io.Reader = s
	if c.MaxBytes > 0 {
		in = io.LimitReader(s, c.MaxBytes)
	}
	r := tar.NewReader(in)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return wire.KindCopied, wire.Copied{Error: err.Error()}
		}
		name := path.Join("/", c.Path, path.Clean("/"+h.Name))
		if h.Typeflag != tar.TypeReg {
			continue
		}
		data, err := io.ReadAll(r)
		if err != nil {
			return wire.KindCopied, wire.Copied{Error: err.Error()}
		}
		a.b.h.mu.Lock()
		if a.b.r.memory.files == nil {
			a.b.r.memory.files = map[string]file{}
		}
		a.b.r.memory.files[name] = file{data, h.FileInfo().Mode(), h.ModTime}
		a.b.h.mu.Unlock()
		done.Files++
		done.Bytes += int64(len(data))
	}
	// The end of the tar is followed by padding and the end of the data.
	if _, err := io.Copy(io.Discard, in); err != nil {
		done.Error = err.Error()
	}
	return wire.KindCopied, done
}

// get sends files to the host.
func (a *agent) get(s *stream, body []byte) (wire.Kind, any) {
	var c wire.Copy
	if err := wire.Decode(wire.KindGet, body, &c); err != nil {
		return wire.KindFault, wire.Fault{Error: err.Error()}
	}
	root := path.Join("/", c.Path)
	a.b.h.mu.Lock()
	files := maps.Clone(a.b.r.memory.files)
	a.b.h.mu.Unlock()
	w := tar.NewWriter(output{s, wire.KindData})
	var done wire.Copied
	for _, name := range slices.Sorted(maps.Keys(files)) {
		rel := path.Base(name)
		if name != root {
			var below bool
			if rel, below = strings.CutPrefix(name, strings.TrimSuffix(root, "/")+"/"); !below {
				continue
			}
		}
		f := files[name]
		done.Files++
		done.Bytes += int64(len(f.data))
		err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: rel, Size: int64(len(f.data)), Mode: int64(f.mode.Perm()), ModTime: f.time})
		if err == nil {
			_, err = w.Write(f.data)
		}
		if err != nil {
			done.Error = err.Error()
			return wire.KindCopied, done
		}
	}
	if done.Files == 0 {
		done.Error = fmt.Sprintf("%s: no such file or folder", c.Path)
		return wire.KindCopied, done
	}
	if err := w.Close(); err != nil {
		done.Error = err.Error()
		return wire.KindCopied, done
	}
	s.a.send(s.id, wire.KindData, nil)
	return wire.KindCopied, done
}
