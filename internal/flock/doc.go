// Package flock is what drivers share of flock(2): locks on files and folders that
// end with the process that holds them.
package flock
