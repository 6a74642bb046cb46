package libvirt

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/diskio/guest/initramfs"
	"github.com/bullpen-vm/bullpen/vm"
)

// networked makes a running machine with a network on a fake host.
func networked(t *testing.T) (*fakeHost, *Driver, *machine) {
	t.Helper()
	h, conf := newFake(t)
	d, err := open(t.Context(), conf, h.dial)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	s := guestSpec(initramfs.Guest{Kernel: "/boot/vmlinuz"})
	s.Network, s.OnExit = "default", vm.Survive
	m, err := d.Create(t.Context(), s)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.Destroy(context.Background())) })
	require.NoError(t, m.Start(t.Context()))
	return h, d, m.(*machine)
}

func addrs(text ...string) (all []netip.Addr) {
	for _, s := range text {
		all = append(all, netip.MustParseAddr(s))
	}
	return all
}

func TestAddressesComeFromTheFirstSourceThatKnowsOne(t *testing.T) {
	h, _, m := networked(t)
	deaf := errors.New("guest agent is not responding: QEMU guest agent is not connected")
	for _, c := range []struct {
		name              string
		lease, agent, arp []netip.Addr
		agentErr          error
		want              []netip.Addr
	}{
		{"a lease", addrs("192.0.2.7"), addrs("198.51.100.1"), addrs("203.0.113.9"), nil, addrs("192.0.2.7")},
		{"the agent", nil, addrs("127.0.0.1", "fe80::1", "198.51.100.1", "2001:db8::1"), nil, nil, addrs("198.51.100.1", "2001:db8::1")},
		{"an agent that does not answer", nil, nil, addrs("203.0.113.9"), deaf, addrs("203.0.113.9")},
		{"an agent that knows only itself", nil, addrs("127.0.0.1", "::1", "0.0.0.0"), addrs("203.0.113.9"), nil, addrs("203.0.113.9")},
	} {
		h.mu.Lock()
		h.addresses = func(source addressSource, _ int) ([]netip.Addr, error) {
			switch source {
			case fromLease:
				return c.lease, nil
			case fromAgent:
				if c.agentErr != nil {
					return nil, &callError{code: 86, text: c.agentErr.Error()}
				}
				return c.agent, nil
			default:
				return c.arp, nil
			}
		}
		h.mu.Unlock()
		got, err := m.Addresses(t.Context())
		require.NoError(t, err, c.name)
		assert.Equal(t, c.want, got, c.name)
	}
}

func TestAddressesWaitsForALeaseAndNoLongerThanItsContext(t *testing.T) {
	h, _, m := networked(t)
	got, err := m.Addresses(t.Context())
	require.NoError(t, err)
	assert.Equal(t, addrs("192.0.2.7"), got, "at the second look")
	h.mu.Lock()
	h.addresses = func(source addressSource, _ int) ([]netip.Addr, error) {
		if source == fromAgent {
			return nil, &callError{code: 86, text: "guest agent is not connected"}
		}
		return nil, nil
	}
	h.mu.Unlock()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err = m.Addresses(ctx)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	assert.Regexp(t, `nobody knows an address of the guest after [0-9.]+.?s \(guest agent: libvirt: guest agent is not connected`, err.Error())
	var op *vm.OpError
	require.ErrorAs(t, err, &op)
	assert.Equal(t, vm.OpAddresses, op.Op)
	// A machine that ends meanwhile does not keep the caller.
	ended := make(chan error, 1)
	go func() {
		_, err := m.Addresses(t.Context())
		ended <- err
	}()
	require.NoError(t, m.Kill(t.Context()))
	require.ErrorIs(t, <-ended, vm.ErrState)
}

func TestADomainWhoseAddressNobodyCanTellIsUnsupported(t *testing.T) {
	h, d, m := networked(t)
	h.mu.Lock()
	h.addresses = func(addressSource, int) ([]netip.Addr, error) {
		return nil, &callError{code: codeNoSupport, text: "this function is not supported by the connection driver"}
	}
	h.domains["theirs"] = &fakeDomain{name: "theirs", state: domRunning, xml: h.domains[string(m.id)].xml}
	h.mu.Unlock()
	theirs, err := d.Open(t.Context(), "theirs")
	require.NoError(t, err)
	for _, m := range []vm.Machine{m, theirs} {
		a, ok := vm.As[vm.Addresser](m)
		require.True(t, ok)
		_, err := a.Addresses(t.Context())
		require.ErrorIs(t, err, errors.ErrUnsupported)
	}
}

func TestTheConnectionMayBeLostWhileAddressesWaits(t *testing.T) {
	h, _, m := networked(t)
	h.mu.Lock()
	h.addresses = func(_ addressSource, asked int) ([]netip.Addr, error) {
		if asked == 2 {
			return nil, lostError()
		}
		if asked < 8 {
			return nil, nil
		}
		return addrs("192.0.2.9"), nil
	}
	h.mu.Unlock()
	got, err := m.Addresses(t.Context())
	require.NoError(t, err)
	assert.Equal(t, addrs("192.0.2.9"), got)
}

// Machines made of one saved state have its hardware address too.
func TestAMachineWithANetworkIsNoParent(t *testing.T) {
	_, d, m := networked(t)
	_, ok := vm.As[vm.Saver](m)
	assert.False(t, ok)
	same, err := d.Open(t.Context(), m.id)
	require.NoError(t, err)
	assert.True(t, vm.Capabilities(same).Has(vm.CanAddress), "also through a handle that was opened")
	assert.False(t, vm.Capabilities(same).Has(vm.CanSave))
}

func TestAHeadlessMachineHasNoScreenshot(t *testing.T) {
	h, d, m := networked(t)
	_, ok := vm.As[vm.Screenshotter](m)
	require.False(t, ok)
	h.mu.Lock()
	h.domains["theirs"] = &fakeDomain{name: "theirs", state: domRunning, xml: h.domains[string(m.id)].xml}
	h.mu.Unlock()
	theirs, err := d.Open(t.Context(), "theirs")
	require.NoError(t, err)
	s, ok := vm.As[vm.Screenshotter](theirs)
	require.True(t, ok, "only the hypervisor can tell")
	var b bytes.Buffer
	_, err = s.Screenshot(t.Context(), &b)
	require.ErrorIs(t, err, errors.ErrUnsupported)
	assert.Zero(t, b.Len())
}

func TestAPictureWithoutEndIsRefused(t *testing.T) {
	var l limited
	_, err := l.Write(make([]byte, mostPicture+1))
	require.ErrorIs(t, err, vm.ErrTooLarge)
	_, err = l.Write([]byte("ok"))
	require.NoError(t, err)
}
