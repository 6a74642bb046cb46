package guest_test

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/bullpen-vm/bullpen/diskio/guest"
)

// The main of an agent that is a service in a machine of its own: its channel
// is a virtio-serial port, its job disks are the block devices from vdb on.
func ExampleNew() {
	agent, err := guest.New(guest.Config{
		Dial: func(context.Context) (io.ReadWriteCloser, error) {
			return os.OpenFile("/dev/virtio-ports/bullpen", os.O_RDWR, 0)
		},
		Disks: func(n int) (guest.Disk, error) {
			return guest.OpenDisk(fmt.Sprintf("/dev/vd%c", 'b'+n))
		},
		WorkDir:     "/var/lib/bullpen/work",
		Mark:        "/var/lib/bullpen/used",
		Reseed:      guest.Reseed,
		SetClock:    guest.SetClock,
		SetHostName: guest.SetHostName,
		PowerOff:    guest.PowerOff,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	_ = agent // agent.Run(ctx) serves until the host says to power off
}

// What is wrong is named with its value and the rule.
func ExampleNew_refused() {
	_, err := guest.New(guest.Config{
		Dial:    func(context.Context) (io.ReadWriteCloser, error) { return nil, io.EOF },
		Disks:   func(int) (guest.Disk, error) { return nil, os.ErrNotExist },
		WorkDir: "work",
	})
	fmt.Println(err)
	// Output: guest: Config.WorkDir is "work", want an absolute path
}
