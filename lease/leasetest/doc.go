// Package leasetest proves that a lease.Store keeps the contract that leases
// stand on. A third party's store runs it in a test of its own:
//
//	func TestStore(t *testing.T) {
//		leasetest.Run(t, leasetest.Harness{
//			Open: func(ctx context.Context) (lease.Store, func() error, error) { ... },
//		})
//	}
//
// Check is the same without a testing.T and returns what is violated, with the
// reason for each rule.
package leasetest
