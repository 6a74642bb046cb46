package sqlstore

import (
	"fmt"
	"os"
)

// identity tells files apart as os.SameFile does.
type identity struct{ dev, ino uint64 }

// identityOf is that of an open file, which path must still name.
func identityOf(f *os.File, path string) (identity, error) {
	id, err := identify(path)
	if err != nil {
		return id, err
	}
	named, err := os.Stat(path)
	if err != nil {
		return id, err
	}
	have, err := f.Stat()
	if err != nil {
		return id, err
	}
	if again, err := identify(path); err != nil || again != id || !os.SameFile(have, named) {
		return id, fmt.Errorf("%w: %s was replaced while it was opened", ErrDamaged, path)
	}
	return id, nil
}
