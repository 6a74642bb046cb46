package ext4

import (
	"fmt"
)

// walk calls visit for the blocks of the log that belong to transactions, in
// their order, and gives the number of the transaction that would come next. It
// ends at the first block that is not the log's next.
func (j *journal) walk(visit func(kind uint32, sequence uint32, at uint64, b []byte) (skip uint64, done bool, err error)) (uint32, error) {
	at, sequence := j.start, j.sequence
	for steps := uint64(0); steps < j.end-j.first; {
		b, err := j.block(at)
		if err != nil {
			return 0, err
		}
		if be.Uint32(b) != journalMagic || be.Uint32(b[8:]) != sequence {
			return sequence, nil
		}
		kind := be.Uint32(b[4:])
		skip, done, err := visit(kind, sequence, at, b)
		if err != nil || done {
			return sequence, err
		}
		if kind == journalCommit {
			sequence++
		}
		at = j.next(at, skip+1)
		steps += skip + 1
	}
	return sequence, nil
}

// scan finds the end of the log: the transaction that was not committed. A
// block with a wrong checksum may be left from an earlier use of the journal:
// it ends the log where the time of its commit says so, or where there is no
// commit, and is damage otherwise. The same is what a kernel does.
func (j *journal) scan() (uint32, error) {
	var (
		suspect bool // a block of this transaction has a wrong checksum
		when    uint64
		crc     = ^uint32(0) // of the transaction, in old journals
	)
	return j.walk(func(kind, sequence uint32, at uint64, b []byte) (uint64, bool, error) {
		switch kind {
		case journalDescriptor:
			suspect = suspect || !j.tailValid(b)
			tags, err := j.tags(b, at)
			if err != nil {
				if suspect {
					return 0, true, nil
				}
				return 0, false, err
			}
			if j.v1 {
				crc = crc32be(crc, b)
				for _, t := range tags {
					data, err := j.block(t.log)
					if err != nil {
						return 0, false, err
					}
					crc = crc32be(crc, data)
				}
			}
			return uint64(len(tags)), false, nil
		case journalRevoke:
			suspect = suspect || !j.tailValid(b)
			return 0, false, nil
		case journalCommit:
			now := be.Uint64(b[0x30:])*1e9 + uint64(be.Uint32(b[0x38:]))
			wrong := suspect || !j.commitValid(b) || j.v1 && !commitMatches(b, crc)
			if wrong && now < when {
				return 0, true, nil
			}
			if wrong {
				return 0, false, corrupt(journalPlace(at), "checksum of transaction %d is wrong", sequence)
			}
			when, crc = now, ^uint32(0)
			return 0, false, nil
		}
		return 0, true, nil // the log ends at what it does not know
	})
}

// commitValid checks a commit block's own checksum.
func (j *journal) commitValid(b []byte) bool {
	if j.csum == 0 {
		return true
	}
	crc := crc32c(j.seed, b[:0x10])
	crc = crc32c(crc, []byte{0, 0, 0, 0})
	return crc32c(crc, b[0x14:]) == be.Uint32(b[0x10:])
}

// commitMatches checks the checksum of a whole transaction in its commit block;
// there may be none.
func commitMatches(b []byte, crc uint32) bool {
	kind, size, want := b[0x0C], b[0x0D], be.Uint32(b[0x10:])
	return kind == 1 && size == 4 && want == crc || kind == 0 && size == 0 && want == 0
}

// replay collects the newest state of each block that transactions before last
// wrote and none revoked since.
func (j *journal) replay(last uint32, overlay map[uint64]journaled) error {
	until := func(visit func(kind, sequence uint32, at uint64, b []byte, tags []tag) error) error {
		_, err := j.walk(func(kind, sequence uint32, at uint64, b []byte) (uint64, bool, error) {
			if sequence == last {
				return 0, true, nil
			}
			var tags []tag
			if kind == journalDescriptor {
				var err error
				if tags, err = j.tags(b, at); err != nil {
					return 0, false, err
				}
			}
			return uint64(len(tags)), false, visit(kind, sequence, at, b, tags)
		})
		return err
	}
	err := until(func(kind, sequence uint32, at uint64, b []byte, _ []tag) error {
		if kind == journalRevoke {
			return j.revoke(b, at, sequence)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return until(func(_, sequence uint32, _ uint64, _ []byte, tags []tag) error {
		for _, t := range tags {
			if err := j.take(t, sequence, overlay); err != nil {
				return err
			}
		}
		return nil
	})
}

// take keeps where a block's newer state is.
func (j *journal) take(t tag, sequence uint32, overlay map[uint64]journaled) error {
	if revoked, ok := j.revoked[t.block]; ok && int32(sequence-revoked) <= 0 {
		return nil
	}
	if t.block >= j.v.blocks {
		return corrupt(journalPlace(t.log), "belongs to block %d of %d", t.block, j.v.blocks)
	}
	at, err := j.place(t.log)
	if err != nil {
		return err
	}
	if j.csum != 0 {
		b := make([]byte, j.v.blockSize)
		if err := j.v.readBlocks(b, at); err != nil {
			return err
		}
		var s [4]byte
		be.PutUint32(s[:], sequence)
		crc := crc32c(crc32c(j.seed, s[:]), b)
		if j.csum == 2 {
			crc &= 0xFFFF
		}
		if crc != t.checksum {
			return corrupt(journalPlace(t.log), "checksum of block %d is %#x, want %#x", t.block, crc, t.checksum)
		}
	}
	overlay[t.block] = journaled{at, t.escaped}
	if len(overlay) > j.v.limits.JournalBlocks {
		return &Fault{"journal", fmt.Errorf("%w: it has more than %d blocks", ErrLimit, j.v.limits.JournalBlocks)}
	}
	return nil
}

// revoke notes the blocks of a revoke block: what transactions up to this one
// wrote there is void.
func (j *journal) revoke(b []byte, at uint64, sequence uint32) error {
	size, end := 4, len(b)
	if j.wide {
		size = 8
	}
	if j.csum != 0 {
		end -= 4
	}
	used := int(be.Uint32(b[12:]))
	if used < 16 || used > end {
		return corrupt(journalPlace(at), "revokes %d bytes", used)
	}
	for off := 16; off+size <= used; off += size {
		block := uint64(be.Uint32(b[off:]))
		if j.wide {
			block = be.Uint64(b[off:])
		}
		if old, ok := j.revoked[block]; !ok || int32(sequence-old) > 0 {
			j.revoked[block] = sequence
		}
		if len(j.revoked) > 4*j.v.limits.JournalBlocks {
			return &Fault{"journal", fmt.Errorf("%w: it revokes more than %d blocks", ErrLimit, 4*j.v.limits.JournalBlocks)}
		}
	}
	return nil
}

// crc32be is the plain CRC-32 with the highest bit first, as old journals use.
func crc32be(crc uint32, p []byte) uint32 {
	for _, c := range p {
		crc = crc<<8 ^ ieeeBE[byte(crc>>24)^c]
	}
	return crc
}

// ieeeBE is read only after it is made.
var ieeeBE = func() (table [256]uint32) {
	for i := range table {
		crc := uint32(i) << 24
		for range 8 {
			high := crc >> 31
			crc = crc<<1 ^ high*0x04C11DB7
		}
		table[i] = crc
	}
	return table
}()
