package proof

import (
	"net"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// proxy is a network between the stores and a server: it can be cut, can stand
// still, and can swallow connections for ever.
type proxy struct {
	address  string
	target   string
	listener net.Listener

	mu    sync.Mutex
	links map[*link]bool
	still chan struct{} // not nil: nothing passes until it is closed
	ended bool
	wg    sync.WaitGroup
}

// link is one connection through the proxy.
type link struct {
	near, far net.Conn
	dead      chan struct{} // closed when it is cut
	once      sync.Once
	frozen    chan struct{} // closed when it swallows all from then on
	cold      sync.Once
}

func newProxy(t *testing.T, target string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &proxy{address: l.Addr().String(), target: target, listener: l, links: map[*link]bool{}}
	p.wg.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			p.wg.Go(func() { p.serve(near) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		p.mu.Lock()
		p.ended = true
		p.mu.Unlock()
		p.goOn()
		p.cut()
		p.wg.Wait()
	})
	return p
}

func (p *proxy) serve(near net.Conn) {
	far, err := net.Dial("tcp", p.target)
	if err != nil {
		near.Close()
		return
	}
	k := &link{near: near, far: far, dead: make(chan struct{}), frozen: make(chan struct{})}
	p.mu.Lock()
	p.links[k] = true
	ended := p.ended
	p.mu.Unlock()
	if ended {
		k.cut()
	}
	var wg sync.WaitGroup
	wg.Go(func() { p.pass(k, far, near) })
	wg.Go(func() { p.pass(k, near, far) })
	wg.Wait()
	p.mu.Lock()
	delete(p.links, k)
	p.mu.Unlock()
}

// pass copies until one side ends; then both do.
func (p *proxy) pass(k *link, to, from net.Conn) {
	defer k.cut()
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		p.mu.Lock()
		still := p.still
		p.mu.Unlock()
		if still != nil {
			select {
			case <-still:
			case <-k.dead:
				return
			}
		}
		select {
		case <-k.frozen: // nothing of it arrives, not even that the other side has closed it
			<-k.dead
			return
		default:
		}
		if _, werr := to.Write(buffer[:n]); werr != nil || err != nil {
			return
		}
	}
}

// cut resets the connection.
func (k *link) cut() {
	k.once.Do(func() {
		close(k.dead)
		for _, c := range []net.Conn{k.near, k.far} {
			_ = c.(*net.TCPConn).SetLinger(0) // a reset, not an end
			c.Close()
		}
	})
}

func (p *proxy) each(f func(k *link)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for k := range p.links {
		f(k)
	}
}

// cut resets all connections; new ones are served.
func (p *proxy) cut() { p.each((*link).cut) }

// freeze makes all connections of now swallow what is sent, for ever; new ones are
// served. So does a firewall that forgot them.
func (p *proxy) freeze() { p.each(func(k *link) { k.cold.Do(func() { close(k.frozen) }) }) }

// stand lets nothing pass until goOn, which delivers it.
func (p *proxy) stand() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.still == nil {
		p.still = make(chan struct{})
	}
}

func (p *proxy) goOn() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.still != nil {
		close(p.still)
		p.still = nil
	}
}
