package ext4

// journaled is a block's newer state in the journal.
type journaled struct {
	at      uint64
	escaped bool // its first four bytes were the journal's mark
}

func (j journaled) unescape(p []byte, offset uint64) {}

func (v *Volume) recover(size int64) error {
	return unsupported("journal", "was left dirty and must be replayed")
}
