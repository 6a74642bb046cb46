// Package hostdir is what drivers share that keep machines in folders of a root:
// the root itself, folders that are half made or half removed, the records in
// them, and the end of a console.
package hostdir
