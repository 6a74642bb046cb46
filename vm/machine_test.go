package vm_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/vm"
)

func spec(name string) vm.Spec {
	return vm.Spec{
		Name: name, Template: "deb12", JobDisks: []int64{1 << 20}, Inputs: 2,
		Owner: vm.Owner{Incarnation: "inc-" + name}, Secret: "s3cret-" + vm.Secret(name),
	}
}

func boot(t *testing.T, d vm.Driver, name string) vm.Machine {
	t.Helper()
	m, err := d.Create(t.Context(), spec(name))
	require.NoError(t, err)
	require.NoError(t, m.Start(t.Context()))
	return m
}
