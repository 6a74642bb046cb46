// Package pypi gets a distribution and what it depends on from a package index,
// as far as a slave that runs nothing of it may: names (PEP 503), versions (PEP
// 440), requirements and environment markers (PEP 508), metadata (core metadata
// 2.x), wheels (PEP 427), source distributions, and the simple index, as pages
// (PEP 503) or JSON (PEP 691), over HTTP or in a folder.
//
// # What is chosen
//
// Of a project the newest version is taken that all who ask for it allow, a
// pre-release only if it is asked for or if there is nothing else; of a version a
// pure wheel for the wanted Python (tags *-none-any) before a source distribution.
// Yanked files (PEP 592) are taken only if exactly their version is asked for, files
// for other Pythons (Requires-Python) never. When a later demand rules out what
// was chosen, it is chosen anew; there is no search beyond that: where nobody's
// newest choice fits, the error names all who asked.
//
// # What is believed
//
// Nothing that is downloaded is executed. A file counts when its digest is
// that of the index; over HTTP an index without digests is refused. What a file
// says of its name and version must be what the index said.
package pypi
