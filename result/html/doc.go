// Package html writes a report as one page that needs nothing else: no script,
// no style sheet, no picture from elsewhere. It can be mailed, kept as a build's
// artifact and opened from a disk.
//
// What did not pass comes first and is open; outputs are folded away. All texts
// go through html/template, so nothing that a guest printed becomes markup, and
// a content security policy in the page forbids scripts besides.
package html
