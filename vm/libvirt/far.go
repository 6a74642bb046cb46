//go:build cgo && (libvirt || libvirt_dlopen)

package libvirt

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	lv "libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"
)

// What a connection does for machines on another computer.

func (c *connection) withPool(name string, f func(*lv.StoragePool) error) error {
	return c.call(func() error {
		p, err := c.raw.LookupStoragePoolByName(name)
		if err != nil {
			return err
		}
		err = f(p)
		_ = p.Free()
		return err
	})
}

func (c *connection) PoolPath(pool string) (path string, err error) {
	err = c.withPool(pool, func(p *lv.StoragePool) error {
		text, err := p.GetXMLDesc(0)
		if err != nil {
			return err
		}
		var x libvirtxml.StoragePool
		if err := x.Unmarshal(text); err != nil {
			return err
		}
		if x.Target == nil || x.Target.Path == "" {
			return fmt.Errorf("it is of type %s and has no folder: %w", x.Type, errors.ErrUnsupported)
		}
		path = x.Target.Path
		return nil
	})
	return path, err
}

func (c *connection) MakeVolume(pool, name string, size int64) error {
	x := libvirtxml.StorageVolume{
		Name: name, Capacity: &libvirtxml.StorageVolumeSize{Value: uint64(size), Unit: "B"}, Allocation: &libvirtxml.StorageVolumeSize{Value: 0, Unit: "B"},
		Target: &libvirtxml.StorageVolumeTarget{Format: &libvirtxml.StorageVolumeTargetFormat{Type: "raw"}},
	}
	text, err := x.Marshal()
	if err != nil {
		return err
	}
	return c.withPool(pool, func(p *lv.StoragePool) error {
		v, err := p.StorageVolCreateXML(text, 0)
		if err == nil {
			_ = v.Free()
		}
		return err
	})
}

// Volumes leaves out those that are removed meanwhile.
func (c *connection) Volumes(pool, prefix string) (found []volume, err error) {
	err = c.withPool(pool, func(p *lv.StoragePool) error {
		all, err := p.ListAllStorageVolumes(0)
		if err != nil {
			return err
		}
		for i := range all {
			v, verr := readVolume(&all[i], prefix)
			_ = all[i].Free()
			if verr != nil && !isCode(verr, lv.ERR_NO_STORAGE_VOL) {
				err = verr
			}
			if verr == nil && v.name != "" {
				found = append(found, v)
			}
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return found, nil
}

// readVolume looks at a volume, unless its name begins otherwise.
func readVolume(v *lv.StorageVol, prefix string) (volume, error) {
	name, err := v.GetName()
	if err != nil || !strings.HasPrefix(name, prefix) {
		return volume{}, err
	}
	text, err := v.GetXMLDesc(0)
	if err != nil {
		return volume{}, err
	}
	var x libvirtxml.StorageVolume
	if err := x.Unmarshal(text); err != nil {
		return volume{}, err
	}
	got := volume{name: name}
	if x.Capacity != nil {
		got.size = int64(x.Capacity.Value) // libvirt tells bytes
	}
	if x.Target != nil && x.Target.Timestamps != nil {
		seconds, _, _ := strings.Cut(x.Target.Timestamps.Mtime, ".")
		if n, err := strconv.ParseInt(seconds, 10, 64); err == nil {
			got.changed = time.Unix(n, 0)
		}
	}
	return got, nil
}

func (c *connection) withVolume(pool, name string, f func(*lv.StorageVol) error) error {
	return c.withPool(pool, func(p *lv.StoragePool) error {
		v, err := p.LookupStorageVolByName(name)
		if err != nil {
			return err
		}
		err = f(v)
		_ = v.Free()
		return err
	})
}

func (c *connection) RemoveVolume(pool, name string) error {
	return c.withVolume(pool, name, func(v *lv.StorageVol) error { return v.Delete(lv.STORAGE_VOL_DELETE_NORMAL) })
}

// transfer runs a stream to its end; one that failed is aborted.
func (c *connection) transfer(begin, move func(*lv.Stream) error) error {
	s, err := c.raw.NewStream(0)
	if err != nil {
		return err
	}
	defer func() { _ = s.Free() }()
	if err := begin(s); err != nil {
		return err
	}
	if err := move(s); err != nil {
		_ = s.Abort()
		return err
	}
	return s.Finish()
}

func (c *connection) Upload(pool, name string, off int64, b []byte) error {
	return c.withVolume(pool, name, func(v *lv.StorageVol) error {
		return c.transfer(func(s *lv.Stream) error { return v.Upload(s, uint64(off), uint64(len(b)), 0) }, func(s *lv.Stream) error {
			for len(b) > 0 {
				n, err := s.Send(b)
				if err != nil {
					return err
				}
				if n <= 0 {
					return fmt.Errorf("the stream took %d bytes", n)
				}
				b = b[n:]
			}
			return nil
		})
	})
}

func (c *connection) Download(pool, name string, off int64, b []byte) error {
	return c.withVolume(pool, name, func(v *lv.StorageVol) error {
		return c.transfer(func(s *lv.Stream) error { return v.Download(s, uint64(off), uint64(len(b)), 0) }, func(s *lv.Stream) error {
			if _, err := io.ReadFull(streamReader{s}, b); err != nil {
				return err
			}
			// The end has to be seen before the stream can be finished.
			if n, err := s.Recv(make([]byte, 1)); !errors.Is(err, io.EOF) {
				return errors.Join(fmt.Errorf("%d bytes more than asked for", n), err)
			}
			return nil
		})
	})
}

type streamReader struct{ s *lv.Stream }

func (r streamReader) Read(b []byte) (int, error) {
	n, err := r.s.Recv(b)
	if n < 0 {
		return 0, fmt.Errorf("the stream answered %d", n)
	}
	return n, err
}
