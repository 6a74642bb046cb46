// Package indextest makes wheels and source distributions, and serves them as a
// package index, for tests.
package indextest
