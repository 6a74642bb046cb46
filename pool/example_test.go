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

// A guest that is lent to another process: here to the same one.
func ExampleOpenHandle() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	driver := fake.New(fake.Config{})
	defer driver.Close()
	machines, err := pool.New(pool.Config{
		Hosts:     []pool.Host{{Driver: driver, Slots: 1}},
		Templates: []pool.Template{{Name: "debian-12"}},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer machines.Close(ctx)
	guest, err := machines.Acquire(ctx, pool.Want{})
	if err != nil {
		fmt.Println(err)
		return
	}
	text, err := guest.Handle(ctx) // for the child's environment
	if err != nil {
		fmt.Println(err)
		return
	}

	// In the child:
	borrowed, err := pool.OpenHandle(ctx, text)
	if err != nil {
		fmt.Println(err)
		return
	}
	exit, err := borrowed.Exec(ctx, vm.Command{Argv: []string{"true"}})
	fmt.Println(exit, err, borrowed.Name() == guest.Name())

	guest.Release(ctx, nil) // the child has lost it, too
	<-borrowed.Context().Done()
	fmt.Println(context.Cause(borrowed.Context()))
	borrowed.Release(ctx, nil)
	// Output:
	// exit 0 <nil> true
	// guest was released
}

// What would be destroyed on a host where no harness runs.
func ExampleReconcile() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	driver := fake.New(fake.Config{})
	defer driver.Close()
	_, err := driver.Create(ctx, vm.Spec{Name: "by-hand", Owner: vm.Owner{Incarnation: "1", Job: "somebody's"}})
	if err != nil {
		fmt.Println(err)
		return
	}
	found, err := pool.Reconcile(ctx, pool.Reaper{Hosts: []pool.Host{{Driver: driver}}, DryRun: true})
	for _, f := range found {
		fmt.Println(f.Machine.ID, f.Verdict, f.Reason)
	}
	fmt.Println(err)
	// Output:
	// by-hand foreign pool "", store ""
	// <nil>
}
