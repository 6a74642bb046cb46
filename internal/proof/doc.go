// Package proof holds the stores of leases against real databases: the
// conformance suite, processes that are killed and stopped, damaged files. It is a
// module of its own, for the drivers that it needs.
//
// What needs PostgreSQL or etcd starts a server of its own in a temporary folder,
// and ends it. BULLPEN_SOAK multiplies the counts of the tests named TestSoak.
package proof
