package vmtest

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"

	"github.com/bullpen-vm/bullpen/vm"
)

// picture is a small input image of no file system: only its bytes count.
type picture struct {
	*bytes.Reader
	digest string
}

// pictureSize is a multiple of any block size, in bytes.
const pictureSize = 64 << 10

func newPicture(text string) vm.Image {
	b := make([]byte, pictureSize)
	copy(b, text)
	sum := sha256.Sum256(b)
	return picture{bytes.NewReader(b), "sha256:" + hex.EncodeToString(sum[:])}
}

// Digest is of the whole content.
func (p picture) Digest() string { return p.digest }
