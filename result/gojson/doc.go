// Package gojson writes a report as go test -json does, for the tools that read
// that: one event a line, each suite being a package and each case a test.
//
// Failed, timed out, errored and aborted are fail; skipped and blocked are skip.
// The status, the message and the earlier attempts are lines of the test's
// output, so nothing is lost that the format has no word for. The format is that
// of "go doc test2json".
package gojson
