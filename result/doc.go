// Package result holds what came out of a run: one [Case] for each test, with
// its verdict, its output and every attempt that was made at it, collected in a
// [Report] that can be printed, encoded and turned into an exit code.
//
// # Verdicts
//
// A [Status] is one of seven words, worst last: passed, skipped, blocked,
// aborted, errored, timed out, failed. Errored means that the environment
// failed, not the test. Three of them are the test's own word about itself:
// passed, timed out and failed.
//
// A case may be tried more than once. The attempts are folded, in the order in
// which they were made, by these rules, which [Combine] implements:
//
//   - The test's own word supersedes an earlier aborted, errored, skipped or
//     blocked attempt, and an earlier word of its own: the last one counts.
//   - Aborted or errored supersedes passed (a broken teardown hides nothing), but
//     never failed or timed out.
//   - Skipped or blocked never supersedes the test's own word.
//   - Otherwise the worse one counts.
//
// A case whose attempts both passed and failed is [Case.Flaky], whatever its
// verdict: the table, the counts and every encoder say so.
//
// # Encoders
//
// [Report.WriteJSONLines] and [ReadJSONLines] keep everything. The packages
// junit, gojson and html write what other tools read. [History] keeps durations
// and verdicts from run to run, for estimates and for flakiness.
package result
