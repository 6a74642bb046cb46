package fake_test

import (
	"context"
	"fmt"
	"time"

	"github.com/bullpen-vm/bullpen/vm"
	"github.com/bullpen-vm/bullpen/vm/fake"
)

// A host that is busy at first, and a guest whose job says two words.
func Example() {
	ctx := context.Background()
	hypervisor := fake.NewHypervisor(fake.Config{
		Faults: []fake.Fault{{Op: vm.OpStart, Times: 1, Err: vm.ErrBusy}},
		Job: func(ctx context.Context, j *fake.Job) error {
			j.Send(64, []byte("hello "+string(j.Go)))
			return nil
		},
	})
	defer hypervisor.Close()
	driver := hypervisor.Driver()
	machine, err := driver.Create(ctx, vm.Spec{Name: "vm-1", Owner: vm.Owner{Incarnation: "1"}})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(machine.Start(ctx))
	end, err := vm.Run(ctx, machine, vm.RunOptions{
		Go:      []byte("world"),
		Message: func(kind uint8, body []byte) { fmt.Println(string(body)) },
	})
	fmt.Println(end.Kind, err)
	// Output:
	// vm: start vm-1 (fake): busy: not now, try elsewhere or later
	// hello world
	// done <nil>
}

// Wrap makes any driver unreliable.
func ExampleWrap() {
	driver := fake.Wrap(fake.New(fake.Config{}), fake.Fault{Op: vm.OpList, Delay: time.Millisecond, Err: vm.ErrHostLost})
	defer driver.Close()
	_, err := driver.List(context.Background())
	fmt.Println(err)
	// Output: vm: list (fake): host lost
}
