// Package atomicfile replaces a file as a whole: readers see the old content or
// the new one, never a part, whatever dies while it is written.
package atomicfile
