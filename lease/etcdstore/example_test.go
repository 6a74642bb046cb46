package etcdstore_test

import (
	"context"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/bullpen-vm/bullpen/lease"
	"github.com/bullpen-vm/bullpen/lease/etcdstore"
)

// endpoints are those of the cluster; here one is started.
func endpoints() []string {
	s, err := server()
	if err != nil {
		panic(err)
	}
	return []string{s.Address}
}

func ExampleOpen() {
	ctx := context.Background()
	client, err := clientv3.New(clientv3.Config{Endpoints: endpoints(), DialKeepAliveTime: 10 * time.Second})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()
	store, err := etcdstore.Open(ctx, client, etcdstore.Config{Prefix: "ci/"})
	if err != nil {
		fmt.Println(err)
		return
	}
	leases, err := lease.New(lease.Config{Store: store, Owner: "TestUpgrade"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer leases.Close(ctx)

	slot, err := leases.TryAny(ctx, []string{"host/h1/slot/0", "host/h1/slot/1"}, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(slot.Key(), slot.Check() == nil)
	fmt.Println(slot.Release(ctx))
	// Output:
	// host/h1/slot/0 true
	// <nil>
}
