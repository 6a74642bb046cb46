// Package vmtest is the conformance suite for drivers of package vm. A driver
// that passes it works with the rest of Bullpen.
//
//	func TestConformance(t *testing.T) { vmtest.Run(t, harness{}) }
//
// Every check has a rule, which is what the reader of a failure needs: it says
// what drivers must do, not what the check does. What a driver does not have is
// declared by [Harness].Without; a capability that is neither there nor declared
// absent is a violation, so nothing is skipped in silence. [Check] does the same
// without package testing.
package vmtest
