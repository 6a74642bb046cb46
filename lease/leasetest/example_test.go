package leasetest_test

import (
	"context"
	"fmt"

	"github.com/bullpen-vm/bullpen/lease"
	"github.com/bullpen-vm/bullpen/lease/leasetest"
)

func ExampleCheck() {
	violations := leasetest.Check(context.Background(), leasetest.Harness{
		Open: func(context.Context) (lease.Store, func() error, error) {
			return lease.NewMemStore(), nil, nil
		},
	})
	fmt.Println(len(violations), "rules are broken")
	// Output: 0 rules are broken
}
