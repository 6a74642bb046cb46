// Package dialin is a driver for machines that were started by hand and connect
// by themselves: each has a name and a secret, and its agent (package
// diskio/guest, or any program that speaks diskio/PROTOCOL.md) dials in over TCP
// or whatever gives a byte stream.
//
//	driver, err := dialin.Open(dialin.Config{Workers: []dialin.Worker{{Name: "bot-solaris", Secret: "..."}}})
//	go driver.Serve(ctx, listener)
//
// A pool leases them as existing machines (pool.Template.Existing, with [Answers]
// as Template.Clean): they are never made, destroyed or rolled back. One that is
// not connected answers vm.ErrBusy, so that a pool passes it over and counts it
// against nobody.
//
// # Who gets in
//
// The hello of a worker bears its name as incarnation, and its secret. An unknown
// name, a wrong secret and a second connection of a worker that is there and
// answers are refused, counted and logged, with where they came from and without
// what they said; the one who is refused does not learn which of name and secret
// was wrong. A second connection of a worker whose first one does not answer any
// more takes its place. Connections that say nothing right are bounded in number,
// bytes and time.
//
// The secret crosses the connection as it is: on a network that is not trusted give
// Serve a listener of crypto/tls.
package dialin
