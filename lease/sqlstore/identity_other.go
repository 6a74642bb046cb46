//go:build !linux

package sqlstore

import (
	"errors"
	"os"
	"syscall"
)

func identify(path string) (identity, error) {
	info, err := os.Stat(path)
	if err != nil {
		return identity{}, err
	}
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return identity{}, errors.ErrUnsupported
	}
	return identity{dev: uint64(s.Dev), ino: s.Ino}, nil //nolint:gosec,unconvert // the type depends on the system
}
