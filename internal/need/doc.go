// Package need is for tests that want a real thing: a hypervisor, a database, a
// tool. Where it is missing the test is skipped, with what is missing and the
// command that would provide it:
//
//	need.Thing(t, "e2fsck")
//
// BULLPEN_REQUIRE=qemu,postgres (or all) makes the skip a failure for the things
// it names. Continuous integration sets it, so that a thing which went missing
// there is seen. A word in it that is no thing is a failure of its own: a typing
// error must not turn tests off.
package need
