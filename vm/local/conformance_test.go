package local

import (
	"context"
	"testing"

	"github.com/bullpen-vm/bullpen/diskio"
	"github.com/bullpen-vm/bullpen/vm"
	"github.com/bullpen-vm/bullpen/vm/vmtest"
)

// harness is a vmtest.Harness and Jobber.
type harness struct {
	t    testing.TB
	root string
}

func (h harness) Open(context.Context) (vm.Driver, error) { return Open(Config{Root: h.root}) }

func (h harness) Spec() vm.Spec {
	s := testSpec(h.t)
	s.JobDisks = []int64{1 << 20, 64 << 10}
	s.Secret = vm.Secret("secret of " + s.Name)
	return s
}

func (harness) Without() vm.Set {
	return vm.CanSnapshot | vm.CanSave | vm.CanFork | vm.CanScreenshot | vm.CanStock
}

func (harness) Job(ctx context.Context, m vm.Machine, hang bool) ([]byte, error) {
	a, _ := vm.As[vm.Attacher](m)
	d, err := a.JobDisk(ctx, 0)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	line := "echo done"
	if hang {
		line = "sleep 600"
	}
	ticket, err := diskio.WriteJob(ctx, d, d.Size(), []diskio.Part{{ID: "task", Job: diskio.Job{Steps: diskio.Commands(line)}}}, nil)
	if err != nil {
		return nil, err
	}
	return diskio.Go{Nonce: ticket.Nonce}.Encode(), nil
}

func TestConformance(t *testing.T) {
	vmtest.Run(t, harness{t, t.TempDir()})
}
