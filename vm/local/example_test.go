package local_test

import (
	"context"
	"fmt"
	"os"

	"github.com/bullpen-vm/bullpen/vm"
	"github.com/bullpen-vm/bullpen/vm/local"
)

// The first line of main, and of TestMain in tests that start machines:
//
//	func TestMain(m *testing.M) {
//		local.Main()
//		os.Exit(m.Run())
//	}
func ExampleMain() {
	local.Main() // does not return in a process that is an agent
	fmt.Println("this is the harness")
	// Output: this is the harness
}

func ExampleOpen() {
	ctx := context.Background()
	root, err := os.MkdirTemp("", "")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(root)
	driver, err := local.Open(local.Config{Root: root})
	if err != nil {
		panic(err)
	}
	defer driver.Close()

	machine, err := driver.Create(ctx, vm.Spec{
		Name:       "worker-1",
		Owner:      vm.Owner{Incarnation: "worker-1"},
		Properties: map[string]string{"COLOUR": "blue"},
	})
	if err != nil {
		panic(err)
	}
	defer machine.Destroy(ctx)
	if err := machine.Start(ctx); err != nil {
		panic(err)
	}
	exit, err := vm.Exec(ctx, machine, vm.Command{Argv: []string{"sh", "-c", "echo hello; exit 3"}, Stdout: os.Stdout})
	fmt.Println(exit, err)
	// Output:
	// hello
	// exit 3 <nil>
}
