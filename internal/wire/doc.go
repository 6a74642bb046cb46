// Package wire is the language that a host and the agent in a guest speak over
// one byte stream (a virtio-serial port, a socket pair): frames with checksums,
// and the messages inside them. It is a leaf: package vm speaks it on the
// host's side, diskio/guest on the guest's. The format is written down for
// guests in other languages in diskio/PROTOCOL.md; keep the two together.
//
// # Conversation
//
// Stream 0 is the machine's: the guest says Hello until it gets Welcome or
// Refused, then Ready once it has set its entropy, clock and names and has
// looked whether it is clean. From then on Ping is answered by Pong, and every
// other stream is one job (Go ... Done), one command (Exec ... Exit) or one copy
// (Put, Get). The side that opens a stream chooses its number; only hosts open
// streams. A stream ends with the guest's Done, Exit, Copied or Fault; a number is
// free again then.
//
// Hellos may cross the first Welcome, so the host welcomes a hello of the same
// boot again until the guest is Ready, and the guest ignores a Welcome that comes
// after the first. Any other hello is refused, also one of a right guest that
// comes after Ready: its agent must have started anew. A guest that comes out of a
// saved state says Hello anew when its line is opened again.
//
// # Flow
//
// Stdin, Stdout, Stderr and Data are flow-controlled: a side may have at most
// InitialWindow bytes of their bodies under way on a stream, in each direction,
// until the other side grants more with Window. All other kinds are small and
// always taken. So no stream can block another, and neither side needs
// unbounded memory.
package wire
