package pool_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/bullpen-vm/bullpen/pool"
	"github.com/bullpen-vm/bullpen/vm"
	"github.com/bullpen-vm/bullpen/vm/fake"
)

// A pool of two machines on one host, and a guest from it.
func Example() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	driver := fake.New(fake.Config{})
	defer driver.Close()
	machines, err := pool.New(pool.Config{
		Hosts:     []pool.Host{{Name: "here", Driver: driver, Slots: 2}},
		Templates: []pool.Template{{Name: "debian-12", Ready: 1, Labels: map[string]string{"os": "debian"}}},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer machines.Close(ctx)

	guest, err := machines.Acquire(ctx, pool.Want{Template: "debian-12", Job: "ExamplePool"})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(guest.Template(), "on", guest.Host(), guest.Labels()["os"])
	info, err := guest.Machine().Info(ctx)
	fmt.Println(info.State, err)

	if err := guest.Release(ctx, nil); err != nil {
		fmt.Println(err)
	}
	_, err = guest.Machine().Info(ctx)
	fmt.Println(errors.Is(err, pool.ErrReleased))

	_, err = machines.Acquire(ctx, pool.Want{Template: "debian-13"})
	fmt.Println(err)
	// Output:
	// debian-12 on here debian
	// running <nil>
	// true
	// pool: acquire a machine of debian-13: impossible: there is no template "debian-13"; there is "debian-12"
}

// Several machines at once, all or none.
func ExamplePool_AcquireAll() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	driver := fake.New(fake.Config{})
	defer driver.Close()
	machines, err := pool.New(pool.Config{
		Hosts:     []pool.Host{{Driver: driver, Slots: 3}},
		Templates: []pool.Template{{Name: "node", Spec: vm.Spec{CPUs: 2}}},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer machines.Close(ctx)
	cluster, err := machines.AcquireAll(ctx, 3, pool.Want{})
	fmt.Println(len(cluster), err)
	for _, guest := range cluster {
		guest.Release(ctx, nil)
	}
	// Output:
	// 3 <nil>
}
