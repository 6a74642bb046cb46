// Package machines is what the larger examples run on: the flags -driver and
// -uri, and the test guest of libvirt's machines. examples/minimal has the same in
// its own few lines, for it is a template to copy.
package machines
