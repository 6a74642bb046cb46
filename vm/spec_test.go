package vm_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/vm"
)

func TestSpecThatBreaksARuleNamesFieldValueAndRule(t *testing.T) {
	t.Parallel()
	require.NoError(t, spec("a").Validate())
	for text, change := range map[string]func(*vm.Spec){
		`spec: Name is "" (0 bytes), want 1 to 100 bytes`:           func(s *vm.Spec) { s.Name = "" },
		`(101 bytes), want 1 to 100 bytes`:                          func(s *vm.Spec) { s.Name = strings.Repeat("x", 101) },
		`spec: Name is ".a", want a first character other than '.'`: func(s *vm.Spec) { s.Name = ".a" },
		`spec: Name is "-a", want a first character other than '-'`: func(s *vm.Spec) { s.Name = "-a" },
		`spec: Name is "a/b", want only [A-Za-z0-9._-], found '/'`:  func(s *vm.Spec) { s.Name = "a/b" },
		`found 'ä'`:                                    func(s *vm.Spec) { s.Name = "ä" },
		`spec: Owner.Incarnation is empty`:             func(s *vm.Spec) { s.Owner.Incarnation = "" },
		`spec: CPUs is -1, want 0 (default 1) or more`: func(s *vm.Spec) { s.CPUs = -1 },
		`spec: Memory is -5 bytes`:                     func(s *vm.Spec) { s.Memory = -5 },
		`spec: Inputs is -1`:                           func(s *vm.Spec) { s.Inputs = -1 },
		`spec: JobDisks[1] is 4095 bytes, want a positive multiple of 4096`:         func(s *vm.Spec) { s.JobDisks = []int64{4096, 4095} },
		`spec: JobDisks[0] is 0 bytes`:                                              func(s *vm.Spec) { s.JobDisks = []int64{0} },
		`spec: Disks[0].Format is "", want raw or qcow2 (formats are never probed)`: func(s *vm.Spec) { s.Disks = []vm.Disk{{}} },
		`spec: Disks[0].BackingFormat is "", want raw or qcow2`:                     func(s *vm.Spec) { s.Disks = []vm.Disk{{Format: "qcow2", Backing: "/b"}} },
		`spec: Properties has key "1a", want [A-Za-z_][A-Za-z0-9_]*`:                func(s *vm.Spec) { s.Properties = map[string]string{"1a": ""} },
		`spec: Properties has key ""`:                                               func(s *vm.Spec) { s.Properties = map[string]string{"": ""} },
		`spec: Properties has key "A=B"`:                                            func(s *vm.Spec) { s.Properties = map[string]string{"A=B": ""} },
	} {
		s := spec("a")
		change(&s)
		require.ErrorContains(t, s.Validate(), text)
	}
	s := spec("A-1_b.c")
	s.Properties = map[string]string{"_a9": "x"}
	s.Disks = []vm.Disk{{Format: "qcow2", Backing: "/b", BackingFormat: "raw"}}
	require.NoError(t, s.Validate())
}

func TestSecretIsNeverPrinted(t *testing.T) {
	t.Parallel()
	s := spec("a")
	b, err := json.Marshal(s)
	require.NoError(t, err)
	for _, text := range []string{fmt.Sprint(s), fmt.Sprintf("%+v %#v %s %v %q", s, s, s.Secret, s.Secret, s.Secret), string(b)} {
		require.NotContains(t, text, "s3cret")
		require.Contains(t, text, "[redacted]")
	}
	require.Equal(t, "s3cret-a", s.Secret.Reveal())
	require.Equal(t, "", vm.Secret("").String())
}

func TestWordsOfStatesAndEnds(t *testing.T) {
	t.Parallel()
	require.Equal(t, "unknown defined starting running paused stopped crashed unknown", fmt.Sprint(
		vm.StateUnknown, " ", vm.StateDefined, " ", vm.StateStarting, " ", vm.StateRunning, " ", vm.StatePaused, " ", vm.StateStopped, " ", vm.StateCrashed, " ", vm.State(99)))
	require.Equal(t, "unknown, done, powered off, crashed, killed, hung, host lost, unknown", fmt.Sprintf("%v, %v, %v, %v, %v, %v, %v, %v",
		vm.EndUnknown, vm.EndDone, vm.EndPoweredOff, vm.EndCrashed, vm.EndKilled, vm.EndHung, vm.EndHostLost, vm.EndKind(99)))
	require.Equal(t, "none cold revert restore fork unknown", fmt.Sprint(vm.RungNone, " ", vm.RungCold, " ", vm.RungRevert, " ", vm.RungRestore, " ", vm.RungFork, " ", vm.Rung(99)))
	require.Equal(t, "die survive", fmt.Sprint(vm.Die, " ", vm.Survive))
	require.True(t, vm.Owner{}.Zero())
	require.False(t, vm.Owner{Token: 1}.Zero())
}

func TestErrorShowsTheConsolesLastLinesHarmless(t *testing.T) {
	t.Parallel()
	var console strings.Builder
	for i := range 30 {
		fmt.Fprintf(&console, "line %d\r\n", i)
	}
	console.WriteString("\x1b[31mred\x07\ttab\x7f\n")
	err := &vm.OpError{Op: "start", Driver: "qemu:///system", ID: "m1", Err: vm.ErrState, Console: []byte(console.String())}
	text := err.Error()
	require.True(t, strings.HasPrefix(text, "vm: start m1 (qemu:///system): not possible in this state; last console lines:\n    line 19\n"), text)
	require.True(t, strings.HasSuffix(text, "    line 29\n    ?[31mred?\ttab?"), text)
	require.ErrorIs(t, err, vm.ErrState)
	require.Equal(t, "vm: list: closed", (&vm.OpError{Op: "list", Err: vm.ErrClosed}).Error())
	require.Equal(t, "vm: x: closed; last console lines:\n    one", (&vm.OpError{Op: "x", Err: vm.ErrClosed, Console: []byte("one")}).Error())
}
