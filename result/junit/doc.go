// Package junit writes a report as the JUnit XML that continuous integration
// servers read, in the dialect of Maven Surefire, which is the only one with
// words for repeated attempts.
//
// There is one testsuite for each suite of the report, in their order, and one
// testcase for each case:
//
//   - failed and timed out are a failure, with the status as its type,
//   - errored and aborted are an error,
//   - skipped and blocked are skipped.
//
// Attempts that did not decide are flakyFailure and flakyError in a case that
// passed in the end, rerunFailure and rerunError in one that did not. An attempt
// that says nothing bad (passed, skipped, blocked) has no element of its own;
// the property "attempts" counts them all.
//
// The format is that of surefire-test-report.xsd in apache/maven-surefire, with
// two customary extensions: a testsuites element around all, and properties in a
// testcase. Texts are made valid XML: what XML 1.0 cannot carry is written as a
// Go escape, such as \x1b.
package junit
