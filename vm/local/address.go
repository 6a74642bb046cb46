package local

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/bullpen-vm/bullpen/internal/flock"
	"github.com/bullpen-vm/bullpen/vm"
)

// Every machine has a loopback address of its own, so that servers of several
// machines may use one port. The machines of a root are told apart by links
// <root>/.addresses/<address>, which name the machine; the machine's folder has
// the address too. A link whose machine does not say so is a dead process's.
const (
	addressFolder = ".addresses" // in the root; flocked while a link is made
	addressFile   = "address"    // in a machine's folder
	addressVar    = "BULLPEN_ADDRESS"
)

// mostTries bounds the search for a free address among some 16 million.
const mostTries = 1000

// addressOf is the n-th address that an incarnation may have. 127.0.x.x and
// 127.255.x.x, where resolvers and the computer's own names are, are left out.
func addressOf(incarnation string, n int) netip.Addr {
	h := sha256.Sum256(fmt.Appendf(nil, "bullpen local address\n%s\n%d", incarnation, n))
	return netip.AddrFrom4([4]byte{127, 1 + h[0]%254, h[1], 1 + h[2]%254})
}

// lockAddresses has nobody else of the root take an address until the lock is
// given back.
func lockAddresses(ctx context.Context, root string) (*flock.Lock, error) {
	return flock.Wait(ctx, filepath.Join(root, addressFolder), os.O_RDONLY|syscall.O_DIRECTORY, syscall.LOCK_EX)
}

// takeAddress makes the link of a new machine and writes the address into its
// folder, which has yet to be moved to its place. The caller has the lock.
func takeAddress(root, dir, name, incarnation string) (link string, err error) {
	for n := range mostTries {
		addr := addressOf(incarnation, n).String()
		link := filepath.Join(root, addressFolder, addr)
		err := os.Symlink(name, link)
		if errors.Is(err, fs.ErrExist) && stale(root, addr) {
			if err = os.Remove(link); err == nil {
				err = os.Symlink(name, link)
			}
		}
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err == nil {
			if err = os.WriteFile(filepath.Join(dir, addressFile), []byte(addr+"\n"), 0o600); err != nil {
				err = errors.Join(err, os.Remove(link))
			}
		}
		return link, err
	}
	return "", fmt.Errorf("%w: %d loopback addresses in a row are other machines'", vm.ErrBusy, mostTries)
}

// stale reports whether an address is nobody's although it has a link. The
// caller has the lock: else the machine may be about to appear.
func stale(root, addr string) bool {
	name, err := os.Readlink(filepath.Join(root, addressFolder, addr))
	if err != nil {
		return false
	}
	said, err := readAddress(filepath.Join(root, name))
	return errors.Is(err, fs.ErrNotExist) || err == nil && said != addr
}

func readAddress(dir string) (string, error) {
	b, err := os.ReadFile(filepath.Join(dir, addressFile))
	return strings.TrimSpace(string(b)), err
}

// giveAddress removes a machine's link. The folder goes after it: as long as
// that says that the address is the machine's, nobody else takes it, so the link
// is still the machine's when it names it.
func giveAddress(root, name string) error {
	addr, err := readAddress(filepath.Join(root, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	link := filepath.Join(root, addressFolder, filepath.Base(addr))
	whose, err := os.Readlink(link)
	if err == nil && whose == name { // else a removal was cut short, and somebody has it since
		err = os.Remove(link)
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return err
}

// removeStaleAddresses makes the folder and removes the links of processes that died between making
// a link and its machine, unless somebody is making one now.
func removeStaleAddresses(root string) error {
	dir := filepath.Join(root, addressFolder)
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	lock, err := flock.Try(dir, os.O_RDONLY|syscall.O_DIRECTORY, syscall.LOCK_EX)
	if errors.Is(err, flock.ErrLocked) {
		return nil
	}
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		if stale(root, e.Name()) {
			err = errors.Join(err, os.Remove(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(err, lock.Unlock())
}

// Addresses gives the machine's loopback address, which no other machine of this
// root has: servers of its jobs are to listen there (BULLPEN_ADDRESS). A machine
// of another root has the same one in one of 16 million cases. Nothing keeps a
// job from using other addresses: see the package documentation.
func (m *machine) Addresses(ctx context.Context) ([]netip.Addr, error) {
	_, end, err := m.d.begin(ctx)
	if err != nil {
		return nil, m.d.fail(vm.OpAddresses, m.id, err)
	}
	defer end()
	addr, err := m.running()
	if err != nil {
		return nil, m.d.fail(vm.OpAddresses, m.id, err)
	}
	return []netip.Addr{addr}, nil
}

// running gives the address of a machine that is on.
func (m *machine) running() (netip.Addr, error) {
	if _, err := m.spec(); err != nil {
		return netip.Addr{}, err
	}
	st, err := m.status()
	if err != nil {
		return netip.Addr{}, m.gone(err)
	}
	if st.end != nil || st.state == vm.StateDefined {
		return netip.Addr{}, fmt.Errorf("%w: it is %v, want running", vm.ErrState, st.state)
	}
	return m.address()
}

// address is the machine's, whatever its state.
func (m *machine) address() (netip.Addr, error) {
	text, err := readAddress(m.dir())
	if err != nil {
		return netip.Addr{}, m.gone(err)
	}
	addr, err := netip.ParseAddr(text)
	if err != nil {
		return addr, fmt.Errorf("%s is damaged: %w", m.path(addressFile), err)
	}
	return addr, nil
}
