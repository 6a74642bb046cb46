package vm_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/bullpen-vm/bullpen/vm"
	"github.com/bullpen-vm/bullpen/vm/fake"
)

func exampleSpec(name string) vm.Spec {
	return vm.Spec{Name: name, Owner: vm.Owner{Incarnation: "inc-" + name}, JobDisks: []int64{4096}}
}

// A job runs on a machine that Run starts.
func ExampleRun() {
	ctx := context.Background()
	driver := fake.New(fake.Config{})
	defer driver.Close()
	machine, err := driver.Create(ctx, exampleSpec("vm-1"))
	if err != nil {
		fmt.Println(err)
		return
	}
	end, err := vm.Run(ctx, machine, vm.RunOptions{Go: []byte("the job on disk 0")})
	fmt.Println(end.Kind, err)
	// Output: done <nil>
}

// Renew brings a used machine back, or makes one.
func ExampleRenew() {
	ctx := context.Background()
	driver := fake.New(fake.Config{})
	defer driver.Close()
	renewed, err := vm.Renew(ctx, nil, vm.Policy{Driver: driver, Spec: exampleSpec("vm-1")})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(renewed.Machine.ID(), renewed.Rung)
	for _, s := range renewed.Skipped {
		fmt.Println("not", s.Rung, "because", s.Err)
	}
	// Output:
	// vm-1 cold
	// not fork because no parent is named
	// not restore because no parent is named
	// not revert because no snapshot is named
}

// Commands run in the guest by hand.
func ExampleExec() {
	ctx := context.Background()
	driver := fake.New(fake.Config{})
	defer driver.Close()
	renewed, err := vm.Renew(ctx, nil, vm.Policy{Driver: driver, Spec: exampleSpec("vm-1")})
	if err != nil {
		fmt.Println(err)
		return
	}
	exit, err := vm.Exec(ctx, renewed.Machine, vm.Command{
		Argv: []string{"cat"}, Stdin: strings.NewReader("hello\n"), Stdout: os.Stdout,
	})
	fmt.Println(exit, err)
	// Output:
	// hello
	// exit 0 <nil>
}

// A holder that lost its right reaches nothing any more.
func ExampleGuard() {
	ctx := context.Background()
	raw := fake.New(fake.Config{})
	defer raw.Close()
	var lost error
	driver := vm.Guard(raw, func() error { return lost })
	machine, err := driver.Create(ctx, exampleSpec("vm-1"))
	if err != nil {
		fmt.Println(err)
		return
	}
	lost = errors.New("lease lost")
	fmt.Println(machine.Destroy(ctx))
	snapshotter, _ := vm.As[vm.Snapshotter](machine)
	fmt.Println(snapshotter.Revert(ctx, "clean"))
	// Output:
	// vm: destroy vm-1 (fake): refused by the fence: lease lost
	// vm: revert vm-1 (fake): refused by the fence: lease lost
}

// What a driver can do is found with As, never with a type assertion.
func ExampleCapabilities() {
	driver := fake.New(fake.Config{Without: vm.CanFork})
	defer driver.Close()
	machine, err := driver.Create(context.Background(), exampleSpec("vm-1"))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(vm.Capabilities(driver))
	fmt.Println(vm.Capabilities(machine) &^ (vm.CanScreenshot | vm.CanSuspend))
	// Output:
	// Stocker
	// Waiter, Snapshotter, Saver, Attacher, Owned, Addresser, Consoler, Messenger
}
