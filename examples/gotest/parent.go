package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/bullpen-vm/bullpen/internal/flock"
	"github.com/bullpen-vm/bullpen/vm"
)

// poolName is written on all machines of this command, so that a later run
// removes what a killed one has left.
const poolName = "gotest"

// makeParent saves a booted machine, from which the others are made in a
// fraction of a boot. Without one, which is no error where the driver has no such
// thing, each machine is booted.
func (m *made) makeParent(ctx context.Context, cache string) (err error) {
	f, ok := vm.As[vm.Forker](m.driver)
	if !ok {
		return nil
	}
	// Kernel and ramdisk are named by their version and content.
	sum := sha256.Sum256(fmt.Appendf(nil, "%+v", m.spec))
	name := poolName + "-" + hex.EncodeToString(sum[:6])
	// Whoever holds the lock makes parents, and lives.
	path, err := filepath.Abs(filepath.Join(cache, "parent.lock"))
	if err != nil {
		return err
	}
	lock, err := flock.Wait(ctx, path, os.O_RDWR|os.O_CREATE, syscall.LOCK_EX)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	parents, err := f.Parents(ctx)
	if err != nil {
		return err
	}
	for _, old := range parents {
		if strings.HasPrefix(old, poolName+"-") && old != name {
			if err := f.DropParent(ctx, old); err != nil {
				return err
			}
		}
	}
	spec, id := m.spec, strings.ToLower(rand.Text()[:10])
	spec.Name, spec.Template, spec.Secret, spec.OnExit = poolName+"-parent-"+id, poolName, vm.Secret(rand.Text()), vm.Die
	spec.Owner = vm.Owner{Pool: poolName, Incarnation: "parent-" + id, Lock: path}
	if err := vm.MakeParent(ctx, m.driver, name, spec); err != nil {
		return err
	}
	m.parent = name
	return nil
}
