package ext4

import (
	"errors"
	"fmt"
)

// What can be wrong with an image.
var (
	ErrCorrupt     = errors.New("damaged")
	ErrLimit       = errors.New("over the limit")
	ErrUnsupported = fmt.Errorf("not supported by diskio: %w", errors.ErrUnsupported)
)

// Fault is an error with its place in the image.
type Fault struct {
	Place string // "inode 12, block 77"
	Err   error
}

func (f *Fault) Error() string { return f.Place + ": " + f.Err.Error() }

// Unwrap gives the cause.
func (f *Fault) Unwrap() error { return f.Err }

// corrupt says what is wrong at a place.
func corrupt(place, format string, args ...any) error {
	return &Fault{place, fmt.Errorf("%w: %s", ErrCorrupt, fmt.Sprintf(format, args...))}
}

func unsupported(place, format string, args ...any) error {
	return &Fault{place, fmt.Errorf("%w: %s", ErrUnsupported, fmt.Sprintf(format, args...))}
}

// failed is for reads of the image that failed.
func failed(place string, err error) error { return &Fault{place, err} }
