package vm

// Fence answers nil while the right to a machine is held, and afterwards the
// error that says how it was lost. It does no I/O and may be called often and
// from any goroutine; lease.Lease.Check is one.
type Fence func() error
