package bullpen_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const seedRows = 166

var (
	seedRow  = regexp.MustCompile(`^\| (\d+) \| (.+?) \|(.*)\|$`)
	seedLink = regexp.MustCompile("\\[(`?)([^\\]`]+)`?\\]\\(([^)]+)\\)")
)

// seedFaults says what is wrong with a list of rows whose links are relative to dir.
func seedFaults(text, dir string) (faults []string) {
	next := 1
	for line := range strings.Lines(text) {
		row := seedRow.FindStringSubmatch(strings.TrimSpace(line))
		if row == nil {
			continue
		}
		if row[1] != strconv.Itoa(next) {
			faults = append(faults, fmt.Sprintf("row %s stands where row %d is wanted", row[1], next))
		}
		next++
		links := seedLink.FindAllStringSubmatch(row[3], -1)
		if len(links) == 0 {
			faults = append(faults, "row "+row[1]+" has no place")
		}
		for _, link := range links {
			if fault := linkFault(dir, link[3], link[2], link[1] != ""); fault != "" {
				faults = append(faults, "row "+row[1]+": "+fault)
			}
		}
	}
	if next != seedRows+1 {
		faults = append(faults, fmt.Sprintf("%d rows, want %d", next-1, seedRows))
	}
	return faults
}

// linkFault says what is wrong with a link to a file in which a name is to be found.
func linkFault(dir, target, name string, quoted bool) string {
	path := filepath.Join(dir, target)
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return target + " does not exist"
	case !quoted:
		return ""
	case info.IsDir():
		return target + " is a folder, and `" + name + "` is to be in a file"
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	if !regexp.MustCompile(`(^|\W)` + regexp.QuoteMeta(name) + `(\W|$)`).Match(text) {
		return "`" + name + "` is not in " + target
	}
	return ""
}

func TestEachRowOfTheSeedsHasAPlaceThatExists(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("examples/SEEDS.md")
	require.NoError(t, err)
	for _, fault := range seedFaults(string(text), "examples") {
		t.Error(fault)
	}
}

func TestARowWithoutAPlaceIsAFault(t *testing.T) {
	t.Parallel()
	for row, want := range map[string]string{
		"| 1 | x | |":                                 "row 1 has no place",
		"| 2 | x | [`package`](../doc.go) |":          "row 2 stands where row 1 is wanted",
		"| 1 | x | [`package`](../gone.go) |":         "row 1: ../gone.go does not exist",
		"| 1 | x | [`TestNothing`](../doc.go) |":      "row 1: `TestNothing` is not in ../doc.go",
		"| 1 | x | [`ackage`](../doc.go) |":           "row 1: `ackage` is not in ../doc.go",
		"| 1 | x | [`package`](../pool) |":            "row 1: ../pool is a folder, and `package` is to be in a file",
		"| 1 | x | [`package`](../doc.go), [y](no) |": "row 1: no does not exist",
	} {
		assert.Contains(t, seedFaults(row, "examples"), want, row)
	}
	assert.Equal(t, []string{"1 rows, want 166"}, seedFaults("| 1 | x | [`package`](../doc.go), [the pool](../pool) |", "examples"))
}
