package etcdstore

import (
	"context"
	"errors"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Watch implements lease.Watcher.
func (s *Store) Watch(ctx context.Context, prefix string) (<-chan struct{}, error) {
	if ctx.Err() != nil {
		return nil, ended(ctx)
	}
	watching, stop := context.WithCancel(clientv3.WithRequireLeader(ctx))
	from := s.client.Watch(watching, s.at(prefix), clientv3.WithPrefix(), clientv3.WithCreatedNotify())
	bounded, cancel := s.bounded(ctx)
	defer cancel()
	select { // until it is in place: what changes from now on is told
	case first, ok := <-from:
		if err := first.Err(); err != nil || !ok {
			stop()
			return nil, s.failed(ctx, "watch", errors.Join(errors.New("the watch was closed"), err))
		}
	case <-bounded.Done():
		stop()
		return nil, s.failed(bounded, "watch", ended(bounded))
	}
	told := make(chan struct{}, 1)
	go func() { // ends with ctx, or with the watch
		defer stop()
		defer close(told)
		for got := range from {
			if got.Err() != nil {
				return
			}
			select {
			case told <- struct{}{}:
			default: // it has not yet looked at the last one
			}
		}
	}()
	return told, nil
}
