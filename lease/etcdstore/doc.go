// Package etcdstore keeps leases in etcd. It is a module of its own: a harness
// that uses another store gets none of etcd's client.
//
//	client, err := clientv3.New(clientv3.Config{Endpoints: endpoints, DialKeepAliveTime: 10 * time.Second})
//	store, err := etcdstore.Open(ctx, client, etcdstore.Config{})
//	leases, err := lease.New(lease.Config{Store: store})
//
// A record is one key. Its token is the revision of the cluster at which the
// token was assigned, so tokens rise over all keys and deleting a key is safe.
// Each write is one transaction that compares the key's revision. etcd's own
// leases are not used: they end by the clock of the server, at least two seconds
// late, a thousand a second; and a lock alone excludes nobody, the token does.
//
// Give the client a DialKeepAliveTime: without one, a connection that a firewall has
// forgotten is used for many minutes, and the leases are lost meanwhile.
//
// Revisions go back when a cluster is restored from a snapshot: restore with
// --bump-revision and --mark-compacted, or use another prefix.
package etcdstore
