package lease_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/bullpen-vm/bullpen/lease"
)

func Example() {
	ctx := context.Background()
	store := lease.NewMemStore()
	manager, err := lease.New(lease.Config{Store: store, Owner: "TestUpgrade", NoLock: true})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer manager.Close(ctx)

	slot, err := manager.Acquire(ctx, "host/h1/slot/0", nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("held:", slot.Check() == nil)

	handedOut := slot.Fence() // goes with what is handed out
	if _, err := slot.Raise(ctx); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("handed on:", errors.Is(handedOut(), lease.ErrLost))

	_, err = manager.TryAcquire(ctx, "host/h1/slot/0", nil)
	fmt.Println("free:", !errors.Is(err, lease.ErrHeld))

	if err := slot.Release(ctx); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("released:", errors.Is(slot.Check(), lease.ErrReleased))
	// Output:
	// held: true
	// handed on: true
	// free: false
	// released: true
}

func ExampleManager_TryAny() {
	ctx := context.Background()
	manager, err := lease.New(lease.Config{Store: lease.NewMemStore(), NoLock: true})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer manager.Close(ctx)
	slots := []string{"host/h1/slot/0", "host/h1/slot/1"}
	for range 2 {
		slot, err := manager.TryAny(ctx, slots, nil)
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(slot.Key())
		defer slot.Release(ctx)
	}
	_, err = manager.TryAny(ctx, slots, nil)
	fmt.Println(errors.Is(err, lease.ErrHeld))
	// Output:
	// host/h1/slot/0
	// host/h1/slot/1
	// true
}
