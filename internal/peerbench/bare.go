//go:build linux && cgo && (libvirt || libvirt_dlopen)

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/uuid"
	lv "libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/bullpen-vm/bullpen/diskio"
	"github.com/bullpen-vm/bullpen/vm"
)

// bare is what a script over virsh would be: libvirt's calls for one transient
// machine, with nothing around them. Its guest is ours, and what is said over its
// channel too, so what the library costs is all else.
type bare struct {
	conn    *lv.Connect
	name    string
	dir     string // of its socket, its job disk and its saved state
	xml     string
	channel *vm.Channel
}

const (
	bareSecret = "secret-of-a-script"
	jobBytes   = 16 << 20
)

// newBare makes a tuned machine of ours: without its console, its panic device
// and its place for an input.
func newBare(conn *lv.Connect, ours *libvirtxml.Domain, dir, name string) (*bare, error) {
	b := &bare{conn: conn, name: name, dir: filepath.Join(dir, name)}
	if err := os.Mkdir(b.dir, 0o755); err != nil {
		return nil, err
	}
	text, err := ours.Marshal()
	if err != nil {
		return nil, err
	}
	var dom libvirtxml.Domain
	if err := dom.Unmarshal(text); err != nil {
		return nil, err
	}
	dom.Name, dom.UUID, dom.Metadata = name, uuid.NewString(), nil
	dev := dom.Devices
	dev.Serials, dev.Consoles, dev.Panics, dev.Disks = nil, nil, nil, dev.Disks[:1]
	dev.Disks[0].Source.File.File = b.path("job")
	dev.Channels[0].Source.UNIX.Path = b.path("s")
	words := []string{"bullpen.incarnation=" + name, "bullpen.secret=" + bareSecret}
	for _, w := range strings.Fields(dom.OS.Cmdline) {
		if !strings.HasPrefix(w, "bullpen.") {
			words = append(words, w)
		}
	}
	dom.OS.Cmdline = strings.Join(words, " ")
	if b.xml, err = dom.Marshal(); err != nil {
		return nil, err
	}
	f, err := os.Create(b.path("job"))
	if err != nil {
		return nil, err
	}
	return b, errors.Join(f.Truncate(jobBytes), f.Close())
}

func (b *bare) path(name string) string { return filepath.Join(b.dir, name) }

// boot makes the machine and waits for its guest.
func (b *bare) boot(ctx context.Context) error {
	dom, err := b.conn.DomainCreateXML(b.xml, 0)
	if err != nil {
		return err
	}
	if err := dom.Free(); err != nil {
		return err
	}
	return b.connect(ctx)
}

// restore makes the machine of its saved state and waits for its guest.
func (b *bare) restore(ctx context.Context) error {
	if err := b.conn.DomainRestore(b.path("state")); err != nil {
		return err
	}
	return b.connect(ctx)
}

func (b *bare) connect(ctx context.Context) error {
	for {
		c, err := new(net.Dialer).DialContext(ctx, "unix", b.path("s"))
		if err == nil {
			b.channel = vm.NewChannel(c, vm.ChannelConfig{Machine: vm.ID(b.name), Incarnation: b.name, Secret: bareSecret, HostName: b.name})
			_, err = b.channel.Ready(ctx)
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		time.Sleep(time.Millisecond)
	}
}

// save keeps the booted machine for restore, and ends it.
func (b *bare) save() error {
	if err := b.channel.Close(); err != nil {
		return err
	}
	b.channel = nil
	time.Sleep(200 * time.Millisecond) // for the guest to see that its host has left
	return b.with(func(dom *lv.Domain) error { return dom.Save(b.path("state")) })
}

// destroy ends the machine; one that does not run is no error.
func (b *bare) destroy() error {
	var err error
	if b.channel != nil {
		err = b.channel.Close()
		b.channel = nil
	}
	derr := b.with((*lv.Domain).Destroy)
	var e lv.Error
	if errors.As(derr, &e) && e.Code == lv.ERR_NO_DOMAIN {
		derr = nil
	}
	return errors.Join(err, derr)
}

func (b *bare) with(f func(*lv.Domain) error) error {
	dom, err := b.conn.LookupDomainByName(b.name)
	if err != nil {
		return err
	}
	return errors.Join(f(dom), dom.Free())
}

// job runs a job on the machine, and gives when its first line came.
func (b *bare) job(ctx context.Context, say string) (first time.Time, err error) {
	f, err := os.OpenFile(b.path("job"), os.O_RDWR, 0)
	if err != nil {
		return first, err
	}
	defer f.Close()
	ticket, err := diskio.WriteJob(ctx, f, jobBytes, []diskio.Part{{ID: "t", Job: sayJob(say)}}, nil)
	if err != nil {
		return first, err
	}
	end, err := vm.Run(ctx, b, vm.RunOptions{Go: diskio.Go{Nonce: ticket.Nonce}.Encode(), Message: func(_ uint8, body []byte) {
		if p, err := diskio.DecodeProgress(body); err == nil && p.What == "output" && first.IsZero() {
			first = time.Now()
		}
	}})
	if err != nil {
		return first, err
	}
	results, err := diskio.ReadResults(ctx, f, jobBytes, ticket, nil)
	if err != nil {
		return first, err
	}
	if end.Kind != vm.EndDone || !results.Complete || first.IsZero() {
		return first, fmt.Errorf("the bare machine's job: %v, complete %v, first line %v", end.Kind, results.Complete, first)
	}
	return first, said(results.Parts[0].Steps, say)
}

// What vm.Run needs of a machine.

func (b *bare) ID() vm.ID { return vm.ID(b.name) }
func (b *bare) Info(context.Context) (vm.Info, error) {
	return vm.Info{ID: b.ID(), State: vm.StateRunning}, nil
}
func (b *bare) Start(context.Context) error                  { return errors.ErrUnsupported }
func (b *bare) Stop(context.Context) error                   { return errors.ErrUnsupported }
func (b *bare) Kill(context.Context) error                   { return b.destroy() }
func (b *bare) Destroy(context.Context) error                { return b.destroy() }
func (b *bare) Channel(context.Context) (*vm.Channel, error) { return b.channel, nil }

// sayJob is the job of all sides: one line.
func sayJob(say string) diskio.Job { return diskio.Job{Steps: diskio.Commands("echo " + say)} }

func said(steps []diskio.StepResult, say string) error {
	if len(steps) != 1 || string(steps[0].Stdout) != say+"\n" {
		return fmt.Errorf("a job said %+v, want %q", steps, say)
	}
	return nil
}
