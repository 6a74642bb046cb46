// Package spool is the queue of a slave: a folder that requests are dropped into
// and answered in. Any number of slaves on one machine may share it.
//
//	foo.json                                a request that nobody has yet
//	foo~<ticket>~<attempt>~<slave>.claim    the same, claimed by that slave
//	foo.result.json                         the answer
//	.slave-<slave>                          flocked by that slave for as long as it lives
//
// A request is claimed by renaming it: of those who try, one succeeds. The ticket
// is made at the first claim and stays; it is in the answer too. When a slave
// dies, however it dies, the kernel gives its lock back, and whoever sees that takes
// its claims over: either the answer with that ticket is there, or the request is
// done again, as the next attempt. So each request is answered, and its answer
// is of one run of it; what it does is done at least once.
//
// A file that somebody still writes is left alone until it is whole JSON, or has
// not changed for a while. Better is to write it under another name and to rename
// it. Files that begin with a dot, and all but *.json, are never touched.
package spool
