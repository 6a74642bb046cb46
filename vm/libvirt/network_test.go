//go:build cgo && (libvirt || libvirt_dlopen)

package libvirt

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"libvirt.org/go/libvirtxml"

	"github.com/bullpen-vm/bullpen/internal/need"
	"github.com/bullpen-vm/bullpen/vm"
)

// network defines and starts one, and ends it with the test. With mode open
// libvirt adds no rules to a firewall.
func (d *daemon) network(name, subnet string) {
	t := d.t
	t.Helper()
	c, err := newBareConnection(d.uri())
	require.NoError(t, err)
	defer c.Close()
	raw := c.(*connection).raw
	n, err := raw.NetworkDefineXML(fmt.Sprintf(`<network><name>%s</name><forward mode='open'/><bridge name='%s0' stp='off' delay='0'/>
<ip address='%s.1' netmask='255.255.255.0'><dhcp><range start='%s.10' end='%s.99'/></dhcp></ip></network>`, name, name, subnet, subnet, subnet))
	require.NoError(t, err)
	t.Cleanup(func() {
		// dnsmasq is no child of the test's.
		pid, _ := os.ReadFile(filepath.Join(d.dir, "run", "network", name+".pid"))
		var n int
		if _, err := fmt.Sscan(string(pid), &n); err == nil && n > 1 {
			_ = syscall.Kill(n, syscall.SIGKILL)
		}
	})
	require.NoError(t, n.Create(), d.log())
	require.NoError(t, n.Free())
}

// guestAgent is a QEMU guest agent that knows one address, and ends when it has
// told it. See https://qemu-project.gitlab.io/qemu/interop/qemu-ga-ref.html.
const guestAgent = `for p in /sys/class/virtio-ports/*; do [ "$(cat $p/name)" = org.qemu.guest_agent.0 ] && dev=/dev/$(basename $p); done
exec 3<>$dev
for try in $(seq 300); do
	read -r line <&3 || { sleep 0.1; continue; } # libvirt comes when it sees the agent
	case "$line" in
	*guest-sync*) id=${line##*'"id":'}; echo '{"return":'${id%%[!0-9]*}'}' >&3 ;;
	*guest-network-get-interfaces*) echo '{"return":[{"name":"lo","ip-addresses":[{"ip-address":"127.0.0.1","ip-address-type":"ipv4","prefix":8}]},{"name":"eth0","hardware-address":"52:54:00:00:00:01","ip-addresses":[{"ip-address":"198.51.100.7","ip-address-type":"ipv4","prefix":24}]}]}' >&3; exit 0 ;;
	*) echo '{"return":{}}' >&3 ;;
	esac
done
exit 1`

// withAgentChannel gives a domain the channel of QEMU's guest agent.
func withAgentChannel(d *libvirtxml.Domain) error {
	d.Devices.Channels = append(d.Devices.Channels, libvirtxml.DomainChannel{
		Source: &libvirtxml.DomainChardevSource{UNIX: &libvirtxml.DomainChardevSourceUNIX{Mode: "bind"}},
		Target: &libvirtxml.DomainChannelTarget{VirtIO: &libvirtxml.DomainChannelTargetVirtIO{Name: "org.qemu.guest_agent.0"}},
	})
	return nil
}

// The guest answers for QEMU's agent, and then asks for a lease by DHCP, as any
// guest would; the host's neighbours are read where libvirt can: 9.0.0 cannot under
// a newer kernel ("wrong nlmsg len").
func TestAGuestOnANetworkIsReachedAtTheAddressOfItsLease(t *testing.T) {
	if !alone(t) {
		return
	}
	need.Tool(t, "dnsmasq")
	need.Thing(t, "network namespaces", func(context.Context) error { _, err := os.Stat("/proc/self/ns/net"); return err })
	daemon, _ := newDaemon(t, ownNetwork)
	daemon.network("bpnet", "192.168.77")
	g, err := buildGuest("virtio_net", "af_packet")
	require.NoError(t, err)
	c := daemon.conf()
	c.Domain = withAgentChannel
	d, err := Open(t.Context(), c)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	s := guestSpec(g)
	s.Network = "bpnet"
	m := boot(t, d, s)
	a, ok := vm.As[vm.Addresser](m)
	require.True(t, ok)

	// Nobody knows an address before the guest has asked for one.
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	_, err = a.Addresses(ctx)
	cancel()
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, err, "nobody knows an address of the guest")

	type told struct {
		all []netip.Addr
		err error
	}
	byAgent := make(chan told, 1)
	go func() {
		all, err := a.Addresses(t.Context())
		byAgent <- told{all, err}
	}()
	step := runJob(t, m, nil, guestAgent).Parts[0].Steps[0]
	require.True(t, step.OK(), "%s %s", step.Stdout, step.Stderr)
	said := <-byAgent
	require.NoError(t, said.err)
	assert.Equal(t, []netip.Addr{netip.MustParseAddr("198.51.100.7")}, said.all, "by the guest's agent")

	results := runJob(t, m, nil,
		`printf '#!/bin/sh\n[ "$1" = bound ] && busybox ip addr add $ip/24 dev $interface && echo $ip >/tmp/ip\nexit 0\n' >/tmp/script; chmod +x /tmp/script`,
		`busybox ip link set eth0 up && busybox udhcpc -i eth0 -q -n -t 20 -T 1 -s /tmp/script`,
		`cat /tmp/ip`, `busybox ping -c 1 -W 5 192.168.77.1`)
	steps := results.Parts[0].Steps
	for _, step := range steps {
		require.True(t, step.OK(), "%s %s", step.Stdout, step.Stderr)
	}
	got, err := a.Addresses(t.Context())
	require.NoError(t, err)
	require.Len(t, got, 1)
	assert.Equal(t, strings.TrimSpace(string(steps[2].Stdout)), got[0].String())
	assert.True(t, strings.HasPrefix(got[0].String(), "192.168.77."))

	var neighbours []netip.Addr
	err = d.line.use(t.Context(), true, func(c conn) (err error) {
		neighbours, err = c.Addresses(s.Name, fromARP)
		return err
	})
	if err != nil {
		require.ErrorContains(t, err, "wrong nlmsg len", "what libvirt cannot do is said as it is known")
		t.Log("ARP:", err)
	} else {
		assert.Contains(t, neighbours, got[0], "the guest was just pinged from")
	}

	// A machine with a network is renewed by a cold boot, and says why.
	r, err := vm.Renew(t.Context(), nil, vm.Policy{Driver: d, Spec: func() vm.Spec { s := guestSpec(g); s.Network = "bpnet"; return s }(), Parent: "none"})
	require.NoError(t, err)
	assert.Equal(t, vm.RungCold, r.Rung)
	require.NoError(t, r.Machine.Destroy(t.Context()))
}

// A machine with a video device has a picture, which is a picture.
func TestAMachineWithAScreenIsPhotographed(t *testing.T) {
	d, g := openEmbed(t)
	d.conf.Domain = withScreen
	m := boot(t, d, guestSpec(g))
	s, ok := vm.As[vm.Screenshotter](m)
	require.True(t, ok)
	var picture strings.Builder
	kind, err := s.Screenshot(t.Context(), &picture)
	require.NoError(t, err)
	switch kind {
	case "image/x-portable-pixmap":
		assert.True(t, strings.HasPrefix(picture.String(), "P6\n"), "%.20q", picture.String())
	case "image/png":
		assert.True(t, strings.HasPrefix(picture.String(), "\x89PNG"), "%.20q", picture.String())
	default:
		t.Errorf("a picture of %q", kind)
	}
	t.Logf("%d bytes of %s", picture.Len(), kind)

	d.conf.Domain = nil
	headless, err := d.Create(t.Context(), guestSpec(g))
	require.NoError(t, err)
	defer func() { require.NoError(t, headless.Destroy(context.Background())) }()
	_, ok = vm.As[vm.Screenshotter](headless)
	assert.False(t, ok, "a machine without a screen")
}
