package local

import (
	"context"
	"fmt"
	"io"
	"path/filepath"

	"github.com/bullpen-vm/bullpen/diskio"
)

// unpacker lays images out with our own reader: nothing is mounted, and no
// privilege is needed. What a folder cannot hold safely (devices, links that
// lead out) is left out and said on the console.
func unpacker(console io.Writer) func(ctx context.Context, image, digest, dir string) error {
	return func(ctx context.Context, image, digest, dir string) error {
		i, err := diskio.OpenImage(image)
		if err != nil {
			return err
		}
		defer i.Close()
		have, err := i.Sum(ctx)
		if err != nil {
			return err
		}
		if have != digest {
			return fmt.Errorf("%s has digest %s, want %s: the image was changed after it was inserted", filepath.Base(image), have, digest)
		}
		tree, err := diskio.Open(i, i.Size(), nil)
		if err != nil {
			return err
		}
		report, err := diskio.Extract(ctx, tree, dir, diskio.Limits{Symlinks: true})
		for _, r := range report.Refused {
			fmt.Fprintf(console, "local: agent: input %s: left out %q: %s\n", digest, r.Path, r.Reason)
		}
		if report.RefusedMore > 0 {
			fmt.Fprintf(console, "local: agent: input %s: left out %d more\n", digest, report.RefusedMore)
		}
		return err
	}
}
