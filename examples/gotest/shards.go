package main

import (
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/bullpen-vm/bullpen/diskio"
	"github.com/bullpen-vm/bullpen/pool/runner"
)

// shard is tests of one package that one process runs.
type shard struct {
	id    string
	pack  *pack
	tests []string
	whole bool // all tests of the package
	took  time.Duration
	image *diskio.Image
}

const (
	// unseen is what a test is expected to take of which nothing is known.
	unseen = 20 * time.Millisecond
	// worth is what a shard takes at the least, for each costs a machine.
	worth = 2 * time.Second
	// mostNames bounds what -test.run gets, in bytes: a kernel takes 128 KiB in one
	// argument.
	mostNames = 100 << 10
)

// plan makes one shard of each package, and several of a package that is above a
// quarter of what each of the machines has to do. Shards are runs of neighbours:
// tests that rely on the order of their file keep it as far as can be.
func plan(packs []*pack, machines int, expect func(suite, test string) time.Duration) (shards []*shard) {
	var all time.Duration
	sums := make([]time.Duration, len(packs))
	for i, p := range packs {
		for _, test := range p.tests {
			sums[i] += expect(p.name, test)
		}
		all += sums[i]
	}
	most := max(all/time.Duration(4*machines), worth)
	for i, p := range packs {
		if len(p.tests) == 0 {
			continue
		}
		pieces := max(1, int(math.Ceil(float64(sums[i])/float64(most))))
		shards = append(shards, p.cut(pieces, sums[i], expect)...)
	}
	return shards
}

// cut makes about that many shards of equal length.
func (p *pack) cut(pieces int, sum time.Duration, expect func(suite, test string) time.Duration) (shards []*shard) {
	share := sum / time.Duration(pieces)
	var now *shard
	names := 0
	for _, test := range p.tests {
		took := expect(p.name, test)
		// A test goes to where its middle lies.
		if now == nil || names+len(test) > mostNames || pieces > 1 && now.took+took/2 > share {
			now, names = &shard{pack: p}, 0
			shards = append(shards, now)
		}
		now.tests = append(now.tests, test)
		now.took += took
		names += len(test) + 1
	}
	for i, s := range shards {
		s.whole = len(shards) == 1
		s.id = fmt.Sprintf("%s#%d", p.name, i+1)
	}
	return shards
}

// The folders of a shard, in its work folder, and the name of its input.
const input = "pkg"

// setUp makes a copy of the files that the tests may write to.
const setUp = `mkdir home tmp && cp -R "$BULLPEN_IN/` + input + `/` + treeFolder + `" ` + treeFolder + ` && chmod -R u+w ` + treeFolder

// start runs the binary as go test does, but for go itself: both streams are one.
// It ends any GOROOT and GOFLAGS that the machine may have.
const start = `unset GOROOT GOPATH GOFLAGS GOCACHE; HOME=$BULLPEN_WORK/home TMPDIR=$BULLPEN_WORK/tmp PWD=$(pwd); export HOME TMPDIR PWD
[ -z "$GOTEST_PATH" ] || PATH=$GOTEST_PATH; unset GOTEST_PATH
program=$BULLPEN_IN/` + input + `/$1; shift; exec "$program" "$@" 2>&1`

// Steps of the job.
const (
	stepSetUp = iota
	stepTest
)

// killAfter is how much longer than its own timeout a binary may take.
const killAfter = 30 * time.Second

// task is the shard's job.
func (s *shard) task(o options, path string) (runner.Task, error) {
	place, err := s.pack.place()
	if err != nil {
		return runner.Task{}, err
	}
	job := diskio.Job{
		Inputs:  []diskio.Input{{Name: input, Image: s.image}},
		Timeout: o.timeout + killAfter,
		Results: outputHead + outputTail,
		Steps: []diskio.Step{
			stepSetUp: {Name: "set up", Argv: []string{"/bin/sh", "-c", setUp}},
			stepTest: {
				Name: s.pack.program(), Dir: treeFolder + "/" + place,
				Argv: append([]string{"/bin/sh", "-c", start, "sh", s.pack.program()}, s.arguments(o)...),
			},
		},
	}
	if path != "" {
		job.Env = map[string]string{"GOTEST_PATH": path}
	}
	return runner.Task{ID: s.id, Group: s.pack.name, Estimate: s.took, Payload: job}, nil
}

// arguments are the flags that go test gives.
func (s *shard) arguments(o options) []string {
	args := []string{"-test.paniconexit0", "-test.v=test2json", "-test.timeout=" + o.timeout.String()}
	if o.short {
		args = append(args, "-test.short")
	}
	_, below := splitRun(o.run)
	if !s.whole || o.run != "" {
		args = append(args, "-test.run=^("+strings.Join(s.tests, "|")+")$"+below)
	}
	return args
}
