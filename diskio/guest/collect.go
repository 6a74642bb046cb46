package guest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"syscall"
)

// collect records what a part leaves: first all below its out folder, then what
// Collect names in its work folder. What cannot be taken is recorded as refused.
func (j *job) collect(p *part) error {
	seen := map[string]bool{}
	if err := j.collectBelow(p, p.out, ".", seen); err != nil {
		return err
	}
	for _, name := range p.doc.Collect {
		if err := j.collectBelow(p, p.work, name, seen); err != nil {
			return err
		}
	}
	return nil
}

// collectBelow records the file, or the files of the folder, at name in dir.
func (j *job) collectBelow(p *part, dir, name string, seen map[string]bool) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		// A step may remove its own folders.
		return j.rec.Refuse(p.index, name, err.Error())
	}
	defer root.Close() // read only
	// A walk would follow a link that it begins at.
	if info, err := root.Lstat(name); err == nil && info.Mode()&fs.ModeSymlink != 0 {
		return j.collectFile(p, root, name, fs.FileInfoToDirEntry(info))
	}
	return fs.WalkDir(root.FS(), name, func(at string, d fs.DirEntry, err error) error {
		if err != nil {
			if at == name && errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return j.rec.Refuse(p.index, at, err.Error())
		}
		if d.IsDir() {
			return nil
		}
		if seen[at] {
			return j.rec.Refuse(p.index, at, "an artifact of this name is there already")
		}
		seen[at] = true
		return j.collectFile(p, root, at, d)
	})
}

func (j *job) collectFile(p *part, root *os.Root, at string, d fs.DirEntry) error {
	if !d.Type().IsRegular() {
		return j.rec.Refuse(p.index, at, fmt.Sprintf("is a %s, only files and folders are taken", kindName(d.Type())))
	}
	// Nothing of the part lives any more, but a name may have been swapped by a
	// process of somebody else: never follow a link, never block on a FIFO.
	f, err := root.OpenFile(path.Clean(at), os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return j.rec.Refuse(p.index, at, err.Error())
	}
	defer f.Close() // read only
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("is no regular file any more")
	}
	if err != nil {
		return j.rec.Refuse(p.index, at, err.Error())
	}
	return j.rec.File(p.index, at, info.Mode().Perm(), info.Size(), f)
}

func kindName(m fs.FileMode) string {
	switch {
	case m&fs.ModeSymlink != 0:
		return "symbolic link"
	case m&fs.ModeNamedPipe != 0:
		return "named pipe"
	case m&fs.ModeSocket != 0:
		return "socket"
	default:
		return "device"
	}
}
