package libvirt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// The head of a file that virDomainSave writes (struct _virQEMUSaveHeader of
// src/qemu/qemu_saveimage.h): private to libvirt, so its version is checked, and
// everything that is not as expected is refused. All numbers are little-endian
// on the computers that write it so.
//
//	 0  16 bytes  "LibvirtQemudSave"
//	16  u32       version, 2
//	20  u32       length of the data that follow the head
//	24  u32       whether it was running
//	28  u32       compression, 0 for none
//	32  u32       offset of the cookie in the data, 0 for none
//	36  56 bytes  unused
//
// The data are the domain's XML, a zero, the cookie, a zero, and padding up to
// QEMU's state. They may be rewritten as long as their length stays.
const (
	saveMagic   = "LibvirtQemudSave"
	saveVersion = 2
	saveHead    = 92
	mostData    = 64 << 20
)

// errSaveFormat: the file is not of the version that is known.
var errSaveFormat = errors.New("the saved state is of a format that this driver does not know, so it cannot be made into another machine's")

// saveData is what the head of a saved state says.
type saveData struct {
	length uint32
	xml    []byte
	cookie []byte // nil: none
}

// readSave reads the head of a saved state.
func readSave(r io.ReaderAt) (saveData, error) {
	var head [saveHead]byte
	if _, err := r.ReadAt(head[:], 0); err != nil {
		return saveData{}, fmt.Errorf("%w: %w", errSaveFormat, err)
	}
	u32 := func(at int) uint32 { return binary.LittleEndian.Uint32(head[at:]) }
	d := saveData{length: u32(20)}
	offset := u32(32)
	switch {
	case string(head[:16]) != saveMagic:
		return d, fmt.Errorf("%w: it does not begin with %q", errSaveFormat, saveMagic)
	case u32(16) != saveVersion:
		return d, fmt.Errorf("%w: version %d, want %d", errSaveFormat, u32(16), saveVersion)
	case u32(28) != 0:
		return d, fmt.Errorf("%w: it is compressed: set save_image_format to raw in qemu.conf", errSaveFormat)
	case d.length == 0 || d.length > mostData || offset >= d.length:
		return d, fmt.Errorf("%w: %d bytes of description, cookie at %d", errSaveFormat, d.length, offset)
	}
	data := make([]byte, d.length)
	if _, err := r.ReadAt(data, saveHead); err != nil {
		return d, fmt.Errorf("%w: %w", errSaveFormat, err)
	}
	text, _, ok := bytes.Cut(data, []byte{0})
	if !ok || len(text) == 0 {
		return d, fmt.Errorf("%w: no description", errSaveFormat)
	}
	d.xml = text
	if offset != 0 {
		if int(offset) <= len(text) {
			return d, fmt.Errorf("%w: its cookie is inside its description", errSaveFormat)
		}
		if d.cookie, _, ok = bytes.Cut(data[offset:], []byte{0}); !ok {
			return d, fmt.Errorf("%w: its cookie has no end", errSaveFormat)
		}
	}
	return d, nil
}

// writeSave puts another description into a saved state of that length.
func writeSave(w io.WriterAt, d saveData) error {
	data := make([]byte, d.length)
	need := len(d.xml) + 1
	if d.cookie != nil {
		need += len(d.cookie) + 1
	}
	if need > len(data) {
		return fmt.Errorf("the machine's description is %d bytes, and the saved state has room for %d", need, len(data))
	}
	copy(data, d.xml)
	offset := 0
	if d.cookie != nil {
		offset = len(d.xml) + 1
		copy(data[offset:], d.cookie)
	}
	var at [4]byte
	binary.LittleEndian.PutUint32(at[:], uint32(offset))
	if _, err := w.WriteAt(data, saveHead); err != nil {
		return err
	}
	_, err := w.WriteAt(at[:], 32)
	return err
}
