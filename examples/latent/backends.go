package main

import (
	"fmt"
	"io"
	"text/tabwriter"
)

// backends are what workers can be made of.
var backends = [][3]string{
	{"latent", "libvirt", "virtual machines of qemu:///session, qemu:///system, qemu+ssh://..., or an embedded QEMU"},
	{"latent", "local", "process groups on this machine, without isolation"},
	{"standard", "-", "started by hand (latent worker), connects over TCP with name and password"},
	{"local", "-", "in the master's own process"},
}

// runBackends is the command backends.
func runBackends(stdout io.Writer) error {
	w := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "TYPE\tDRIVER\tWHAT")
	for _, b := range backends {
		fmt.Fprintf(w, "%s\t%s\t%s\n", b[0], b[1], b[2])
	}
	return w.Flush()
}
