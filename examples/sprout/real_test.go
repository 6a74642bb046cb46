//go:build cgo && (libvirt || libvirt_dlopen)

package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/internal/need"
)

// Two appliances in parallel mode, in real guests: workers are child processes, and
// each test is a command in a guest.
func TestOnRealMachinesTwoAppliancesRunTheSuiteInParallel(t *testing.T) {
	need.Thing(t, "libvirt")
	need.Thing(t, "qemu")
	need.Thing(t, "kernel")
	if testing.Short() {
		t.Skip("real machines")
	}
	dir, err := os.MkdirTemp("", "s-") // the paths of sockets are limited
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, os.RemoveAll(dir)) })
	p := newProject(t, func(c *config) {
		c.Hosts = []host{{
			Name: "real", Driver: "libvirt", URI: "qemu:///embed?root=" + filepath.Join(dir, "libvirt"), Dir: dir, Slots: 2,
			// The test guest has no network, so nobody can tell its address.
			Properties: map[string]string{"provider": "embedded", "address": "192.0.2.1"},
		}}
		c.Poll = 0.5
	})
	p.suite(map[string]string{
		"test_guest.sh": "test_kernel() {\n\tuname -sr\n\ttest \"$(cat /proc/1/comm)\" = init -o -d /proc/1\n}\n",
		"test_vm.sh":    "test_start() { # vsphere55 rhv41\n\ttest -n \"$1\" && test \"$APPLIANCE_PROVIDER\" = embedded\n}\ntest_bad() { # vsphere55\n\techo as it should; exit 3\n}\n",
	})
	h := p.start(p.args("-sprout-appliances", "2", "-sprout-desc", "Jenkins cfme #42", "-junit", filepath.Join(p.dir, "junit.xml"))...)
	<-h.ended
	out := h.out.String()
	assert.Equal(t, 1, h.ProcessState.ExitCode(), "one test fails")
	inOrder(t, out, "Requesting 2 appliances from Sprout at ", "fulfilled at 100%", "Appliances were provided:\n- https://192.0.2.1/ is sprout-",
		"Parallelized Sprout setup finished.", "appliance_provider=\"embedded\";", "(slave00) using appliance", "(slave01) using appliance", "4 tests are collected by 2 of 2 workers")
	assert.Contains(t, out, "failed test_vm.sh::test_bad[vsphere55] exit 3")
	assert.Contains(t, out, "1 failed, 3 passed")
	kernel, err := os.ReadFile("/proc/sys/kernel/osrelease")
	require.NoError(t, err)
	report := p.file("junit.xml")
	assert.Contains(t, report, "as it should")
	assert.NotContains(t, report, string(kernel), "that would be the host's")
	var c slaveConfig
	require.NoError(t, json.Unmarshal([]byte(p.file("conf/slave_config.json")), &c))
	assert.True(t, c.Sprout)
	for id, pid := range p.workers() {
		assert.False(t, alive(pid), "worker %s is left", id)
	}
}
