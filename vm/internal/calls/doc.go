// Package calls is how a driver's calls in progress and its Close keep out of each
// other's way.
package calls
