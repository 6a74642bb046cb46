// Package loan is the language of a pool and the processes that it lends guests
// to: messages of a JSON head and a payload over a connection, and errors that
// can be tested for at the other end.
package loan
