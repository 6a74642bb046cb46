// Package lease gives out exclusive, expiring, fenced rights to named things.
//
// A Manager asks a Store for keys ("host/h1/slot/0") and hands out Leases. A
// store is anything with compare-and-swap: MemStore is one process's memory,
// and stores over databases make the same rights durable and shared by many
// processes and machines.
//
// # What a lease promises
//
// At no instant do two holders pass Check for the same key, whatever crashes,
// stalls or clocks do. Each grant has a token from one rising sequence of the
// store, so that whatever a former holder still sends can be told from what
// the present one sends.
//
// For its holder a lease is lost TTL after the start of the last acknowledged
// renewal, by the monotonic clock and counting the time that the machine was
// suspended. For all others it is free when
//
//   - there is no record, or the session that it names is gone;
//   - they saw the session's (token, renewals) unchanged for TTL plus margin
//     on their own clock;
//   - its owner is proven dead: on this machine, in the same boot and
//     namespaces, the flock that the owner held for life is free.
//
// Wall times in records are for people; nothing is decided by them.
//
// # Sessions
//
// A Manager keeps one session record alive, renewed every third of the TTL
// until Close, and all of its leases refer to it: ten thousand leases cost one
// write per period. Who takes a lease from a dead session removes the session
// record first, by compare-and-swap, so a holder that renews at that very
// instant wins, and one that was judged dead can never renew again. When its
// session is lost, all leases of a Manager are lost at once, each is told
// once, and the next Acquire starts a new session.
//
// # Order
//
// Within a Manager waiters are served by priority, then by arrival, and only
// the first waiter for a key asks the store. Between Managers it is a race
// that the store decides.
//
// # Closing
//
// Close the users of leases first, then the Manager, then the store.
package lease
