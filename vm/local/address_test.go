package local

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/vm"
)

func TestEveryMachineHasALoopbackAddressOfItsOwnAndKnowsIt(t *testing.T) {
	t.Parallel()
	d := testDriver(t, Config{})
	seen := map[string]bool{}
	port := 0
	for range 3 {
		m := running(t, d)
		all, err := m.Addresses(t.Context())
		require.NoError(t, err)
		require.Len(t, all, 1)
		require.True(t, all[0].IsLoopback())
		addr := all[0].String()
		require.NotEqual(t, "127.0.0.1", addr)
		require.False(t, seen[addr], "two machines have %s", addr)
		seen[addr] = true
		require.Equal(t, addr, sh(t, m, "echo $BULLPEN_ADDRESS"))
		// The same port for all.
		l, err := net.Listen("tcp", fmt.Sprintf("%s:%d", addr, port))
		require.NoError(t, err)
		defer l.Close()
		port = l.Addr().(*net.TCPAddr).Port
	}
}

func TestAMachineThatDoesNotRunHasNoAddress(t *testing.T) {
	t.Parallel()
	d := testDriver(t, Config{})
	m, err := d.Create(t.Context(), testSpec(t))
	require.NoError(t, err)
	_, err = m.(*machine).Addresses(t.Context())
	require.ErrorIs(t, err, vm.ErrState)
	require.ErrorContains(t, err, "addresses")
	require.NoError(t, m.Destroy(t.Context()))
	_, err = m.(*machine).Addresses(t.Context())
	require.ErrorIs(t, err, vm.ErrNotFound)
}

func TestAddressesAreNeverThoseOfTheComputer(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for n := range 20_000 {
		b := addressOf("incarnation", n).As4()
		require.Equal(t, byte(127), b[0])
		require.NotContains(t, []byte{0, 255}, b[1])
		require.NotContains(t, []byte{0, 255}, b[3])
		seen[string(b[:])] = true
	}
	require.Greater(t, len(seen), 19_900)
}

// plant makes a folder that says that it has an address, with its link.
func plant(t *testing.T, root, name, addr string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Join(root, name), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(root, name, addressFile), []byte(addr+"\n"), 0o600))
	require.NoError(t, os.MkdirAll(filepath.Join(root, addressFolder), 0o700))
	require.NoError(t, os.Symlink(name, filepath.Join(root, addressFolder, addr)))
}

func TestAnAddressThatAnotherMachineHasIsPassedOver(t *testing.T) {
	t.Parallel()
	d := testDriver(t, Config{})
	s := testSpec(t)
	first, second := addressOf(s.Owner.Incarnation, 0), addressOf(s.Owner.Incarnation, 1)
	plant(t, d.Root(), ".other", first.String())
	m, err := d.Create(t.Context(), s)
	require.NoError(t, err)
	got, err := m.(*machine).address()
	require.NoError(t, err)
	require.Equal(t, second, got)
	// What is destroyed gives back its own and nobody else's.
	require.NoError(t, m.Destroy(t.Context()))
	left, err := os.ReadDir(filepath.Join(d.Root(), addressFolder))
	require.NoError(t, err)
	require.Len(t, left, 1)
	require.Equal(t, first.String(), left[0].Name())
}

func TestTheAddressOfAProcessThatDiedInCreateIsFree(t *testing.T) {
	t.Parallel()
	d := testDriver(t, Config{})
	s := testSpec(t)
	first := addressOf(s.Owner.Incarnation, 0)
	plant(t, d.Root(), ".other", first.String())
	require.NoError(t, os.RemoveAll(filepath.Join(d.Root(), ".other")))
	m, err := d.Create(t.Context(), s)
	require.NoError(t, err)
	got, err := m.(*machine).address()
	require.NoError(t, err)
	require.Equal(t, first, got)

	// Or is removed by the next harness; that of a machine is not.
	link := filepath.Join(d.Root(), addressFolder, "127.1.1.1")
	require.NoError(t, os.Symlink(".gone", link))
	testDriver(t, Config{Root: d.Root()})
	left, err := os.ReadDir(filepath.Join(d.Root(), addressFolder))
	require.NoError(t, err)
	require.Len(t, left, 1)
	require.Equal(t, first.String(), left[0].Name())
	// A removal that was cut short after the link, which somebody has since.
	require.NoError(t, os.Remove(filepath.Join(d.Root(), addressFolder, first.String())))
	require.NoError(t, os.Symlink(".other", filepath.Join(d.Root(), addressFolder, first.String())))
	require.NoError(t, m.Destroy(t.Context()))
	whose, err := os.Readlink(filepath.Join(d.Root(), addressFolder, first.String()))
	require.NoError(t, err)
	require.Equal(t, ".other", whose)
}

func TestCreateAnswersBusyWhenNoAddressIsFreeAndLeavesNothing(t *testing.T) {
	t.Parallel()
	d := testDriver(t, Config{})
	s := testSpec(t)
	// A machine whose address cannot be read may have any.
	require.NoError(t, os.MkdirAll(filepath.Join(d.Root(), ".other", addressFile), 0o700))
	for n := range mostTries {
		err := os.Symlink(".other", filepath.Join(d.Root(), addressFolder, addressOf(s.Owner.Incarnation, n).String()))
		if err != nil {
			require.ErrorIs(t, err, os.ErrExist)
		}
	}
	_, err := d.Create(t.Context(), s)
	require.ErrorIs(t, err, vm.ErrBusy)
	all, err := d.List(t.Context())
	require.NoError(t, err)
	assert.Empty(t, all)
	require.NoError(t, os.RemoveAll(filepath.Join(d.Root(), ".other")))
	m, err := d.Create(t.Context(), s)
	require.NoError(t, err)
	require.NoError(t, m.Destroy(t.Context()))
}
