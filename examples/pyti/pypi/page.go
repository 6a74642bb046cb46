package pypi

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"path"
	"strings"

	"golang.org/x/net/html"
)

// Link is a file that an index has.
type Link struct {
	Filename string
	// URL is where it is, http, https or file.
	URL *url.URL
	// Hashes are hexadecimal digests by algorithm (sha256, sha384, sha512).
	Hashes         map[string]string
	RequiresPython Specifiers
	Yanked         bool
}

// MostPage bounds a project's page, in bytes; MostLinks the files on it.
const (
	MostPage  = 64 << 20
	MostLinks = 200_000
)

// ParsePage reads a project's page of the simple index: JSON (PEP 691) where the
// content type says so, else HTML (PEP 503). Links are relative to base. A link
// whose condition on Python cannot be read is left out, as PEP 503 wants it
// of installers that cannot tell.
func ParsePage(r io.Reader, contentType string, base *url.URL) ([]Link, error) {
	bounded := &io.LimitedReader{R: r, N: MostPage + 1}
	kind, _, _ := strings.Cut(contentType, ";")
	parse := parseHTML
	if kind = strings.TrimSpace(strings.ToLower(kind)); kind == "application/json" || strings.HasSuffix(kind, "+json") {
		parse = parseJSON
	}
	links, err := parse(bounded, base)
	if bounded.N <= 0 {
		return nil, fmt.Errorf("the page has more than %d bytes", MostPage)
	}
	return links, err
}

func parseJSON(r io.Reader, base *url.URL) ([]Link, error) {
	var page struct {
		Meta struct {
			Version string `json:"api-version"`
		} `json:"meta"`
		Files []struct {
			Filename       string            `json:"filename"`
			URL            string            `json:"url"`
			Hashes         map[string]string `json:"hashes"`
			RequiresPython string            `json:"requires-python"`
			Yanked         any               `json:"yanked"` // a bool, or the reason
		} `json:"files"`
	}
	if err := json.NewDecoder(r).Decode(&page); err != nil {
		return nil, fmt.Errorf("the page is not JSON of PEP 691: %w", err)
	}
	if v := page.Meta.Version; v != "" && !strings.HasPrefix(v, "1.") {
		return nil, fmt.Errorf("the page has api-version %q, want 1.x", v)
	}
	if len(page.Files) > MostLinks {
		return nil, fmt.Errorf("the page has %d files, want at most %d", len(page.Files), MostLinks)
	}
	var links []Link
	for _, f := range page.Files {
		reason, _ := f.Yanked.(string)
		gone, _ := f.Yanked.(bool)
		link, err := newLink(base, f.URL, f.RequiresPython)
		if err != nil || !plainName(f.Filename) {
			continue
		}
		link.Filename, link.Yanked = f.Filename, gone || reason != ""
		link.addHashes(f.Hashes)
		links = append(links, link)
	}
	return links, nil
}

func parseHTML(r io.Reader, base *url.URL) ([]Link, error) {
	tokens := html.NewTokenizer(r)
	tokens.SetMaxBuf(1 << 20)
	var links []Link
	for {
		switch tokens.Next() {
		case html.ErrorToken:
			if err := tokens.Err(); !errors.Is(err, io.EOF) {
				return nil, fmt.Errorf("the page is not HTML: %w", err)
			}
			return links, nil
		case html.StartTagToken, html.SelfClosingTagToken:
			token := tokens.Token()
			attr := map[string]string{}
			for _, a := range token.Attr {
				attr[a.Key] = a.Val
			}
			href, linked := attr["href"]
			if token.Data == "base" && linked {
				if u, err := base.Parse(href); err == nil {
					base = u
				}
			}
			if token.Data != "a" || !linked {
				continue
			}
			link, err := newLink(base, href, attr["data-requires-python"])
			if err != nil {
				continue
			}
			if link.Filename = path.Base(link.URL.Path); !plainName(link.Filename) {
				continue
			}
			_, link.Yanked = attr["data-yanked"]
			if algorithm, digest, ok := strings.Cut(link.URL.Fragment, "="); ok {
				link.addHashes(map[string]string{algorithm: digest})
			}
			link.URL.Fragment, link.URL.RawFragment = "", ""
			if links = append(links, link); len(links) > MostLinks {
				return nil, fmt.Errorf("the page has more than %d files", MostLinks)
			}
		}
	}
}

func newLink(base *url.URL, href, python string) (Link, error) {
	u, err := base.Parse(href)
	if err != nil {
		return Link{}, err
	}
	// A page from the network names no file of this machine.
	if web := u.Scheme == "http" || u.Scheme == "https"; !web && (u.Scheme != "file" || base.Scheme != "file") {
		return Link{}, fmt.Errorf("scheme %q", u.Scheme)
	}
	specs, err := ParseSpecifiers(python)
	return Link{URL: u, RequiresPython: specs}, err
}

func (l *Link) addHashes(hashes map[string]string) {
	for algorithm, digest := range hashes {
		if digester(algorithm) == nil {
			continue
		}
		if l.Hashes == nil {
			l.Hashes = map[string]string{}
		}
		l.Hashes[algorithm] = strings.ToLower(digest)
	}
}

func plainName(name string) bool {
	return name != "" && name[0] != '.' && !strings.ContainsAny(name, "/\\\x00") && len(name) <= 255
}
