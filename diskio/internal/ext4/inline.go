package ext4

// Inline data: small files and folders that are in the inode itself, the first
// 60 bytes in i_block and the rest as the value of an extended attribute.
const (
	xattrMagic       = 0xEA020000
	xattrSystem      = 7 // the index of names that begin with "system."
	xattrEntryHead   = 16
	inlineDirParent  = 4 // bytes in front of the entries: the parent's number
	inlineDataSuffix = "data"
)

// readInline collects what is in an inode. raw is all of it.
func (in *Inode) readInline(raw []byte, extra int) ([]byte, error) {
	data := make([]byte, rootBytes, len(raw))
	copy(data, in.root[:])
	body := raw[min(smallInode+extra, len(raw)):]
	if len(body) >= 4+xattrEntryHead && le.Uint32(body) == xattrMagic {
		entries := body[4:]
		for at := 0; at+4 <= len(entries) && le.Uint32(entries[at:]) != 0; {
			if at+xattrEntryHead > len(entries) {
				return nil, corrupt(in.place(), "attributes end in an entry")
			}
			e := entries[at:]
			name := int(e[0])
			if at+xattrEntryHead+name > len(entries) {
				return nil, corrupt(in.place(), "name of an attribute has %d bytes", name)
			}
			if e[1] == xattrSystem && string(e[xattrEntryHead:xattrEntryHead+name]) == inlineDataSuffix {
				offset, size := uint64(le.Uint16(e[2:])), uint64(le.Uint32(e[8:]))
				if le.Uint32(e[4:]) != 0 || offset > uint64(len(entries)) || size > uint64(len(entries))-offset {
					return nil, corrupt(in.place(), "inline data at %d+%d of %d", offset, size, len(entries))
				}
				data = append(data, entries[offset:offset+size]...)
				break
			}
			at += xattrEntryHead + (name+3)&^3
		}
	}
	if in.Size > int64(len(data)) {
		return nil, corrupt(in.place(), "inline data has %d bytes, the inode says %d", len(data), in.Size)
	}
	return data, nil
}

// readInline reads a folder that is in its inode: the parent's number, entries
// in the rest of i_block, and entries in the attribute's value.
func (l *dirList) readInline() error {
	place := l.in.place()
	data := l.in.inline[:max(l.in.Size, rootBytes)]
	if err := l.add("..", le.Uint32(data), 0, place); err != nil {
		return err
	}
	l.dot = true
	if err := l.parse(data[inlineDirParent:rootBytes], place); err != nil {
		return err
	}
	return l.parse(data[rootBytes:], place)
}
