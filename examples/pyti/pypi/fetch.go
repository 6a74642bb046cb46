package pypi

import (
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// ErrHash: a file is not the one that the index promises.
var ErrHash = errors.New("the digest is wrong")

// strongest names the algorithms that count, the best first. MD5 proves nothing.
var strongest = [...]string{"sha512", "sha384", "sha256"}

func digester(algorithm string) hash.Hash {
	switch algorithm {
	case "sha256":
		return sha256.New()
	case "sha384":
		return sha512.New384()
	case "sha512":
		return sha512.New()
	}
	return nil
}

// Fetch brings a file into the cache and gives its path there and its SHA-256.
// ErrHash, with both digests, when it is another file than the index says; nothing
// is kept then. Over HTTP a link without a digest is refused.
func (x *Index) Fetch(ctx context.Context, link Link) (path, sum string, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("index: file %s: %w", link.Filename, err)
		}
	}()
	want, algorithm := "", ""
	for i := len(strongest) - 1; i >= 0; i-- {
		if d := link.Hashes[strongest[i]]; d != "" {
			want, algorithm = d, strongest[i]
		}
	}
	if want == "" && link.URL.Scheme != "file" {
		return "", "", fmt.Errorf("%s names no sha256, sha384 or sha512: %w", link.URL.Redacted(), ErrHash)
	}
	if want != "" {
		if path, sum = x.cached(algorithm, want, link.Filename); path != "" {
			return path, sum, nil
		}
	}
	err = x.again(ctx, func() error {
		from, err := x.open(ctx, link)
		if err != nil {
			return err
		}
		defer from.Close()
		path, sum, err = x.keep(from, link.Filename, algorithm, want)
		return err
	})
	return path, sum, err
}

func (x *Index) open(ctx context.Context, link Link) (io.ReadCloser, error) {
	if link.URL.Scheme == "file" {
		return os.Open(filepath.FromSlash(link.URL.Path))
	}
	answer, err := x.get(ctx, link.URL, "*/*")
	if err != nil {
		return nil, err
	}
	return answer.Body, nil
}

// place is where a file of that digest is kept.
func (x *Index) place(algorithm, digest, filename string) string {
	return filepath.Join(x.conf.Cache, algorithm+"-"+digest, filename)
}

// cached looks whether a file is there and still what it was.
func (x *Index) cached(algorithm, want, filename string) (path, sum string) {
	if raw, err := hex.DecodeString(want); err != nil || len(raw) != digester(algorithm).Size() {
		return "", "" // keep says what is wrong
	}
	path = x.place(algorithm, want, filename)
	f, err := os.Open(path)
	if err != nil {
		return "", ""
	}
	defer f.Close()
	check, own := digester(algorithm), sha256.New()
	if _, err := io.Copy(io.MultiWriter(check, own), f); err != nil || hex.EncodeToString(check.Sum(nil)) != want {
		return "", ""
	}
	return path, hex.EncodeToString(own.Sum(nil))
}

// keep writes a download beside its place, checks it, and puts it there.
func (x *Index) keep(from io.Reader, filename, algorithm, want string) (path, sum string, err error) {
	if err := os.MkdirAll(x.conf.Cache, 0o755); err != nil {
		return "", "", err
	}
	tmp, err := os.CreateTemp(x.conf.Cache, ".new-*")
	if err != nil {
		return "", "", err
	}
	defer os.Remove(tmp.Name()) // fails once it is in its place
	defer tmp.Close()
	if algorithm == "" {
		algorithm = "sha256"
	}
	check, own := digester(algorithm), sha256.New()
	n, err := io.Copy(io.MultiWriter(tmp, check, own), io.LimitReader(from, x.conf.MostFile+1))
	if err != nil {
		return "", "", passing{err}
	}
	if n > x.conf.MostFile {
		return "", "", fmt.Errorf("more than %d bytes", x.conf.MostFile)
	}
	got := hex.EncodeToString(check.Sum(nil))
	if want != "" && got != want {
		return "", "", fmt.Errorf("%w: the index promises %s %s, the file has %s", ErrHash, algorithm, want, got)
	}
	if err := tmp.Sync(); err != nil {
		return "", "", err
	}
	path = x.place(algorithm, got, filename)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", "", err
	}
	sum = hex.EncodeToString(own.Sum(nil))
	// One that others brought meanwhile, and may be reading, stays as it is.
	if err = os.Link(tmp.Name(), path); errors.Is(err, fs.ErrExist) {
		if there, _ := x.cached(algorithm, got, filename); there != "" {
			return path, sum, nil
		}
		err = os.Rename(tmp.Name(), path) // it is damaged
	}
	return path, sum, err
}
