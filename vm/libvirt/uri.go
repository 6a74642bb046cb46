package libvirt

import (
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
)

// kind is what sort of hypervisor a URI names.
type kind uint8

const (
	kindTest    kind = iota // test:///default: in this process, no guests
	kindEmbed               // qemu:///embed?root=: the driver inside this process
	kindSession             // qemu:///session: the user's own daemon
	kindSystem              // qemu:///system: the computer's daemon
)

var kindNames = [...]string{"test", "embed", "session", "system"}

func (k kind) String() string { return kindNames[k] }

// target is a URI taken apart.
type target struct {
	uri    string
	kind   kind
	root   string // of embed: absolute
	socket string // of a daemon, where the URI names it
	host   string // another computer; empty: this one
}

// remote reports whether files of this computer mean nothing there.
func (t target) remote() bool { return t.host != "" }

// guests reports whether its machines run guests.
func (t target) guests() bool { return t.kind != kindTest }

// parseURI takes a connection URI apart; see https://libvirt.org/uri.html.
func parseURI(s string) (target, error) {
	t := target{uri: s}
	if s == "" {
		return t, fmt.Errorf("libvirt: Config.URI is empty, want one such as qemu:///system or qemu:///embed?root=/var/tmp/machines")
	}
	u, err := url.Parse(s)
	if err != nil {
		return t, fmt.Errorf("libvirt: Config.URI: %w", err)
	}
	bad := func(why string) (target, error) {
		return t, fmt.Errorf("libvirt: Config.URI is %q, %s; want test:///default, qemu:///embed?root=DIR, qemu:///session, qemu:///system or qemu+ssh://HOST/system", s, why)
	}
	driver, transport, _ := strings.Cut(u.Scheme, "+")
	t.host = u.Hostname()
	if t.host == "" && (transport == "ssh" || transport == "libssh" || transport == "libssh2" || transport == "tls" || transport == "tcp") {
		return bad("which names no host")
	}
	switch driver + ":" + u.Path {
	case "test:/default":
		t.kind = kindTest
	case "qemu:/embed":
		t.kind = kindEmbed
		root := u.Query().Get("root")
		if !filepath.IsAbs(root) {
			return bad("whose root is not an absolute path")
		}
		t.root = filepath.Clean(root)
	case "qemu:/session":
		t.kind = kindSession
	case "qemu:/system":
		t.kind = kindSystem
	default:
		return bad("which is none that this driver knows")
	}
	if (t.kind == kindTest || t.kind == kindEmbed) && (t.host != "" || transport != "") {
		return bad("but such a hypervisor is inside this process")
	}
	if t.kind == kindSession && t.remote() {
		return bad("but another computer's session is not supported")
	}
	t.socket = u.Query().Get("socket")
	return t, nil
}
