package proof

import (
	"fmt"
	"math/rand/v2"
	"net/url"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// throughProxy gives an address that leads through a proxy to the same store.
func throughProxy(t *testing.T, kind, address string) (*proxy, string) {
	t.Helper()
	if kind == "etcd" {
		host, prefix, _ := strings.Cut(address, "/")
		p := newProxy(t, host)
		return p, p.address + "/" + prefix
	}
	u, err := url.Parse(address)
	require.NoError(t, err)
	p := newProxy(t, u.Host)
	u.Host = p.address
	return p, u.String()
}

// One of three processes has a bad network: its connections are reset, swallow all,
// or stand still for longer than the TTL. It loses its leases and gets on
// afterwards; the others get on all the while.
func TestSoakTheConnectionIsCut(t *testing.T) {
	for _, kind := range []string{"postgres", "etcd"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			address := arena(t, kind)
			const ttl = 1500 * time.Millisecond
			p, bad := throughProxy(t, kind, address)
			f := newField(t, false, kind, address, "", ttl.String(), "a,b")
			f.start()
			f.start()
			f.settings = f.with(kind, bad, "", ttl.String(), "a,b")
			victim := f.start()
			var others []*exec.Cmd
			for _, c := range f.children {
				if c != victim {
					others = append(others, c)
				}
			}
			pid := victim.Process.Pid
			faults := []struct {
				name string
				do   func()
			}{
				{"reset", p.cut},
				{"swallowed", p.freeze},
				{"standing still", func() {
					p.stand()
					defer p.goOn()
					f.toldOff(t, pid)
					f.allUsed(t, "the others go on while one's network stands still", pidsOf(others))
				}},
				{"reset while standing still", func() {
					p.stand()
					defer p.goOn()
					f.allUsed(t, "the others go on", pidsOf(others))
					p.cut()
				}},
			}
			first := rand.IntN(len(faults))
			for n := range max(soak(60), len(faults)) {
				f.allUsed(t, fmt.Sprintf("all get on before fault %d", n), pidsOf(f.children))
				fault := faults[(first+n)%len(faults)]
				t.Logf("%s", fault.name)
				fault.do()
			}
			f.allUsed(t, "all get on in the end", pidsOf(f.children))
			f.mu.Lock()
			defer f.mu.Unlock()
			assert.Empty(t, f.wrong)
			for pid, n := range f.stale { // what was between Check and the resource
				assert.LessOrEqual(t, n, f.losses[pid], "uses of pid %d under a token that was succeeded", pid)
			}
		})
	}
}
