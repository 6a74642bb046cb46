package main

import (
	"context"
	"encoding/json"
	"errors"
)

// lend gives what a worker opens an appliance with, and what takes it back.
func lend(ctx context.Context, a appliance) (json.RawMessage, func() error, error) {
	return nil, func() error { return nil }, errors.ErrUnsupported
}

// openMachine opens an appliance in a worker.
func openMachine(ctx context.Context, handle json.RawMessage) (machine, func() error, error) {
	return nil, nil, errors.ErrUnsupported
}
