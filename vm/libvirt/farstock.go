package libvirt

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/bullpen-vm/bullpen/internal/flock"
	"github.com/bullpen-vm/bullpen/vm"
)

// An input on another computer is a volume of its own, which all machines there
// share: it is named by its digest and by who sent it, and is an input only once
// there is a volume that says that it is whole. Both are written once. Which
// machines have it their descriptions say: it is plugged into a place and out again.

const (
	inputPrefix = "bullpen-input-"
	inputSuffix = ".raw"
	// wholeSuffix is of the volume that is made when an input is whole, and
	// written to at each use, so that its time is that of the last.
	wholeSuffix = ".whole"
	wholeSize   = 4096
	// halfTime is how long an upload may stand still before it is swept.
	halfTime = time.Hour
)

// volume is what libvirt says of one.
type volume struct {
	name    string
	size    int64
	changed time.Time // the zero value: nobody knows
}

// inputName is the part of an input's volumes' names that its digest gives.
func inputName(digest string) (string, error) {
	hex, ok := strings.CutPrefix(digest, "sha256:")
	if !ok || len(hex) != 64 || strings.Trim(hex, "0123456789abcdef") != "" {
		return "", fmt.Errorf("the image's digest is %q, want sha256: and 64 hexadecimal digits", digest)
	}
	return inputPrefix + hex, nil
}

// inputs gives the volumes of inputs: the stems of the whole ones, with their last
// use, and of all others that are there, with their last change.
func (d *Driver) inputs(ctx context.Context) (whole, half map[string]time.Time, err error) {
	var all []volume
	err = d.line.use(ctx, true, func(c conn) (err error) {
		all, err = c.Volumes(d.conf.Pool, inputPrefix)
		return err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("storage pool %q (Config.Pool): %w", d.conf.Pool, err)
	}
	whole, half = map[string]time.Time{}, map[string]time.Time{}
	for _, v := range all {
		if stem, ok := strings.CutSuffix(v.name, inputSuffix); ok {
			half[stem] = v.changed
		}
	}
	for _, v := range all {
		stem, ok := strings.CutSuffix(v.name, wholeSuffix)
		if !ok {
			continue
		}
		if _, there := half[stem]; there {
			whole[stem] = v.changed
			delete(half, stem)
		} else {
			half[stem] = v.changed // it is half removed
		}
	}
	return whole, half, nil
}

// Stock lists the inputs on the other computer, whoever sent them.
func (d *Driver) Stock(ctx context.Context) ([]string, error) {
	return do(ctx, d, vm.OpStock, "", nil, func(ctx context.Context) ([]string, error) {
		whole, _, err := d.inputs(ctx)
		if err != nil {
			return nil, err
		}
		digests := map[string]bool{}
		for stem := range whole {
			if hex, _, ok := strings.Cut(strings.TrimPrefix(stem, inputPrefix), "-"); ok {
				digests["sha256:"+hex] = true
			}
		}
		return slices.Sorted(maps.Keys(digests)), nil
	})
}

// findInput gives the stem of a whole input, of several the first by name, so that
// all choose the same one; empty when there is none.
func (d *Driver) findInput(ctx context.Context, name string) (string, error) {
	whole, _, err := d.inputs(ctx)
	if err != nil {
		return "", err
	}
	for _, stem := range slices.Sorted(maps.Keys(whole)) {
		if strings.HasPrefix(stem, name+"-") {
			return stem, nil
		}
	}
	return "", nil
}

// stocked sees to it that an input is there and gives its stem. Of those who do so
// at once on this computer one sends it; another computer may send its own, of
// which one is kept.
func (d *Driver) stocked(ctx context.Context, in vm.Image, name string) (stem string, err error) {
	if stem, err = d.findInput(ctx, name); err != nil || stem != "" {
		return stem, err
	}
	path := filepath.Join(d.base, ".upload-"+name[len(inputPrefix):][:1]+".lock")
	lock, err := flock.Wait(ctx, path, os.O_RDWR|os.O_CREATE, syscall.LOCK_EX)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	if err := lock.Note("an upload"); err != nil {
		return "", err
	}
	if stem, err = d.findInput(ctx, name); err != nil || stem != "" {
		return stem, err
	}
	if err := d.sweepInputs(ctx); err != nil {
		d.log.Warn("inputs that nobody uses cannot be removed", "pool", d.conf.Pool, "err", err)
	}
	stem = name + "-" + strings.ToLower(rand.Text()[:10])
	err = d.send(ctx, stem, in)
	var first string
	if err == nil {
		first, err = d.findInput(ctx, name)
	}
	if err == nil && first == "" {
		err = fmt.Errorf("volume %s of pool %s was removed at once: %w", stem, d.conf.Pool, vm.ErrNotFound)
	}
	if err != nil || first != stem {
		cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), farTime)
		defer cancel()
		err = errors.Join(err, d.removeInput(cctx, stem))
	}
	return first, err
}

// send uploads an input and says that it is whole.
func (d *Driver) send(ctx context.Context, stem string, in vm.Image) error {
	size := max(in.Size()+4095, 4096) &^ 4095
	if err := d.makeVolume(ctx, stem+inputSuffix, size); err != nil {
		return err
	}
	b := make([]byte, farPiece)
	for off := int64(0); off < in.Size(); {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		piece := b[:min(farPiece, in.Size()-off)]
		if n, err := in.ReadAt(piece, off); n < len(piece) {
			return fmt.Errorf("the image ended after %d bytes of %d: %w", off+int64(n), in.Size(), errors.Join(io.ErrUnexpectedEOF, err))
		}
		if !zeros(piece) { // the volume is one hole
			if err := d.upload(ctx, stem+inputSuffix, off, piece); err != nil {
				return err
			}
		}
		off += int64(len(piece))
	}
	return d.makeVolume(ctx, stem+wholeSuffix, wholeSize)
}

func (d *Driver) makeVolume(ctx context.Context, name string, size int64) error {
	err := d.line.use(ctx, false, func(c conn) error { return c.MakeVolume(d.conf.Pool, name, size) })
	if err != nil {
		return fmt.Errorf("volume %s of pool %s: %w", name, d.conf.Pool, full(err))
	}
	return nil
}

// removeInput removes an input, or what there is of it; that it is whole goes first.
func (d *Driver) removeInput(ctx context.Context, stem string) error {
	for _, suffix := range []string{wholeSuffix, inputSuffix} {
		err := d.line.use(ctx, true, func(c conn) error { return c.RemoveVolume(d.conf.Pool, stem+suffix) })
		if err != nil && !hasCode(err, codeNoVolume) {
			return fmt.Errorf("volume %s of pool %s: %w", stem+suffix, d.conf.Pool, err)
		}
	}
	return nil
}

// sweepInputs removes the inputs that no machine has and that were last used long
// ago, and what was left of uploads. The other computer's clock and this one's may
// differ by less than halfTime.
func (d *Driver) sweepInputs(ctx context.Context) error {
	whole, half, err := d.inputs(ctx)
	if err != nil {
		return err
	}
	old := func(all map[string]time.Time, age time.Duration) (stems []string) {
		for stem, at := range all {
			if !at.IsZero() && time.Since(at) > age {
				stems = append(stems, stem)
			}
		}
		return stems
	}
	stems := append(old(whole, d.conf.KeepInputs), old(half, halfTime)...)
	if len(stems) == 0 {
		return nil
	}
	var all []domain
	err = d.line.use(ctx, true, func(c conn) (err error) {
		all, err = c.List()
		return err
	})
	if err != nil {
		return err
	}
	used := map[string]bool{}
	for _, dom := range all {
		for _, config := range []bool{false, true} {
			x, err := d.describe(ctx, dom.name, config)
			if hasCode(err, codeNoDomain) {
				break
			}
			if err != nil {
				return err
			}
			for _, disk := range x.Devices.Disks {
				if disk.Source != nil && disk.Source.File != nil {
					used[filepath.Base(disk.Source.File.File)] = true
				}
			}
		}
	}
	var errs []error
	for _, stem := range stems {
		if !used[stem+inputSuffix] {
			d.log.Info("an input is removed that was not used for long", "pool", d.conf.Pool, "input", stem)
			errs = append(errs, d.removeInput(ctx, stem))
		}
	}
	return errors.Join(errs...)
}
