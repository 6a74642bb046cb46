package pypi

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// ErrNotFound: the index has no such project, or no file of it that fits.
var ErrNotFound = errors.New("not found in the index")

// Config says where an index is. Location and Cache are required.
type Config struct {
	// Location is the URL of a simple index, or a folder: a tree of pages
	// (<project>/index.html), or files, in it or in <project>/.
	Location string
	// Cache is the folder that downloads are kept in, by their digests.
	Cache string
	// HTTP is the client; nil: one with timeouts.
	HTTP *http.Client
	// Retries is how often what may pass (a status of 500 or above, a broken
	// connection) is tried again; zero: 3, negative: never. Pause is the time before
	// the first, doubled for each; zero: half a second.
	Retries int
	Pause   time.Duration
	// MostFile bounds a download in bytes; zero: 1 GiB.
	MostFile int64
}

// Index is a package index. It is safe for concurrent use.
type Index struct {
	conf Config
	base *url.URL // with a slash at its end
}

// NewIndex checks the configuration; it does no I/O over the network.
func NewIndex(c Config) (*Index, error) {
	if c.Cache == "" {
		return nil, fmt.Errorf("index: Cache is empty, want a folder")
	}
	var base *url.URL
	if strings.HasPrefix(c.Location, "http://") || strings.HasPrefix(c.Location, "https://") {
		u, err := url.Parse(c.Location)
		if err != nil || u.Host == "" {
			return nil, fmt.Errorf("index is %q, want a URL with a host", c.Location)
		}
		base = u
	} else {
		dir := strings.TrimPrefix(c.Location, "file://")
		if info, err := os.Stat(dir); !filepath.IsAbs(dir) || err != nil || !info.IsDir() {
			return nil, fmt.Errorf("index is %q, want http://..., https://... or the absolute path of a folder", c.Location)
		}
		base = &url.URL{Scheme: "file", Path: filepath.ToSlash(dir)}
	}
	if !strings.HasSuffix(base.Path, "/") {
		base.Path += "/"
	}
	if c.HTTP == nil {
		c.HTTP = &http.Client{Timeout: 30 * time.Minute}
	}
	if c.Retries == 0 {
		c.Retries = 3
	}
	if c.Pause <= 0 {
		c.Pause = 500 * time.Millisecond
	}
	if c.MostFile <= 0 {
		c.MostFile = 1 << 30
	}
	return &Index{conf: c, base: base}, nil
}

// Links gives the files of a project; ErrNotFound when the index does not know
// it.
func (x *Index) Links(ctx context.Context, project string) (links []Link, err error) {
	page := x.base.JoinPath(Normalize(project) + "/")
	if x.base.Scheme == "file" {
		links, err = x.folder(page)
	} else {
		links, err = x.page(ctx, page)
	}
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(links) == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("index %s: project %s: %w", x.base.Redacted(), Normalize(project), err)
	}
	return links, nil
}

func (x *Index) page(ctx context.Context, page *url.URL) (links []Link, err error) {
	err = x.again(ctx, func() error {
		answer, err := x.get(ctx, page, "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.01")
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		links, err = ParsePage(answer.Body, answer.Header.Get("Content-Type"), answer.Request.URL)
		return err
	})
	return links, err
}

// passing is an error that may not be there the next time.
type passing struct{ error }

func (p passing) Unwrap() error { return p.error }

func (x *Index) get(ctx context.Context, u *url.URL, accept string) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Accept", accept)
	request.Header.Set("User-Agent", "bullpen-pyti/1")
	answer, err := x.conf.HTTP.Do(request)
	if err != nil {
		return nil, passing{err}
	}
	if answer.StatusCode == http.StatusOK {
		return answer, nil
	}
	answer.Body.Close()
	err = fmt.Errorf("GET %s: %s", u.Redacted(), answer.Status)
	switch {
	case answer.StatusCode == http.StatusNotFound:
		return nil, fmt.Errorf("%w (%w)", ErrNotFound, err)
	case answer.StatusCode >= 500 || answer.StatusCode == http.StatusTooManyRequests:
		return nil, passing{err}
	}
	return nil, err
}

// again tries what may pass once more.
func (x *Index) again(ctx context.Context, try func() error) error {
	pause := x.conf.Pause
	for tries := 1; ; tries++ {
		err := try()
		var p passing
		if err == nil || !errors.As(err, &p) || ctx.Err() != nil {
			return err
		}
		if tries > x.conf.Retries {
			return fmt.Errorf("%w (tried %d times)", err, tries)
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return err
		}
		pause *= 2
	}
}

// folder lists a project of a folder.
func (x *Index) folder(page *url.URL) ([]Link, error) {
	dir := filepath.FromSlash(page.Path)
	f, err := os.Open(filepath.Join(dir, "index.html"))
	if err == nil {
		defer f.Close()
		return ParsePage(f, "text/html", page)
	}
	var links []Link
	for _, at := range []*url.URL{page, x.base} {
		entries, err := os.ReadDir(filepath.FromSlash(at.Path))
		if err != nil && (!errors.Is(err, fs.ErrNotExist) || at == x.base) {
			return nil, err
		}
		for _, e := range entries {
			if _, err := ParseFilename(filepath.Base(dir), e.Name()); err == nil && !e.IsDir() {
				links = append(links, Link{Filename: e.Name(), URL: at.JoinPath(e.Name())})
			}
		}
	}
	return links, nil
}
