package reconcile

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/bullpen-vm/bullpen/vm"
)

func view(live map[vm.ID]string, held map[string]uint64, alive map[string]bool) View {
	return View{
		Store: "s1", Pool: "p",
		Live:  func(id vm.ID, inc string) bool { have, ok := live[id]; return ok && have == inc },
		Held:  func(k string) (uint64, bool) { t, ok := held[k]; return t, ok },
		Alive: func(l string) (bool, bool) { a, ok := alive[l]; return a, ok },
	}
}

func TestVerdicts(t *testing.T) {
	t.Parallel()
	v := view(map[vm.ID]string{"mine": "i1"}, map[string]uint64{"host/h/slot/0": 10}, map[string]bool{"dead": false, "live": true})
	for name, c := range map[string]struct {
		id    vm.ID
		owner vm.Owner
		want  Verdict
		rule  string
	}{
		"nothing written on it":                  {"x", vm.Owner{}, Foreign, ""},
		"a machine of the pool":                  {"mine", vm.Owner{Store: "s1", Pool: "p", Incarnation: "i1", Slot: "host/h/slot/0", Token: 10}, Ours, ""},
		"an older incarnation in a held slot":    {"x", vm.Owner{Store: "s1", Pool: "q", Incarnation: "i0", Slot: "host/h/slot/0", Token: 9}, Destroy, "a"},
		"a newer token in a slot held here":      {"x", vm.Owner{Store: "s1", Pool: "p", Incarnation: "i0", Slot: "host/h/slot/0", Token: 11}, Leave, ""},
		"same token, not ours":                   {"x", vm.Owner{Store: "s1", Pool: "p", Incarnation: "i0", Slot: "host/h/slot/0", Token: 10}, Leave, ""},
		"same store, dead owner":                 {"x", vm.Owner{Store: "s1", Pool: "q", Slot: "host/h/slot/1", Lock: "dead", Token: 3}, Claim, "a"},
		"same store, living owner":               {"x", vm.Owner{Store: "s1", Pool: "q", Slot: "host/h/slot/1", Lock: "live", Token: 3}, Wait, "a"},
		"same store, unknown owner":              {"x", vm.Owner{Store: "s1", Pool: "q", Slot: "host/h/slot/1", Lock: "?", Token: 3}, Wait, "a"},
		"other store, same pool, dead":           {"x", vm.Owner{Store: "s2", Pool: "p", Slot: "host/h/slot/0", Lock: "dead"}, Destroy, "b"},
		"other store, same pool, living":         {"x", vm.Owner{Store: "s2", Pool: "p", Slot: "host/h/slot/0", Lock: "live"}, Leave, ""},
		"other store, same pool, unknown":        {"x", vm.Owner{Store: "s2", Pool: "p", Lock: "?"}, Leave, ""},
		"other store, same pool, no lock":        {"x", vm.Owner{Store: "s2", Pool: "p"}, Leave, ""},
		"other store, other pool, dead":          {"x", vm.Owner{Store: "s2", Pool: "q", Lock: "dead"}, Foreign, ""},
		"pool name that only begins the same":    {"x", vm.Owner{Store: "s2", Pool: "pp", Lock: "dead"}, Foreign, ""},
		"same store without a slot, dead, other": {"x", vm.Owner{Store: "s1", Pool: "q", Lock: "dead"}, Foreign, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var s Sightings
			f := s.Judge([]vm.Info{{ID: c.id, Owner: c.owner}}, v)
			require.Len(t, f, 1)
			assert.Equal(t, c.want.String(), f[0].Verdict.String(), f[0].Reason)
			assert.Equal(t, c.rule, f[0].Rule)
			assert.NotEmpty(t, f[0].Reason)
		})
	}
	assert.Equal(t, "unknown", Verdict(99).String())
}

func TestAnOrphanIsClaimedAtTheSecondSightingOnly(t *testing.T) {
	t.Parallel()
	v := view(nil, nil, nil)
	orphan := vm.Info{ID: "x", Owner: vm.Owner{Store: "s1", Slot: "k", Incarnation: "i"}}
	var s Sightings
	verdict := func(l ...vm.Info) Verdict { return s.Judge(l, v)[0].Verdict }
	assert.Equal(t, Wait, verdict(orphan))
	assert.Equal(t, Claim, verdict(orphan))
	other := orphan
	other.Owner.Incarnation = "i2"
	assert.Equal(t, Wait, verdict(other), "another incarnation is another machine")
	s.Judge(nil, v)
	assert.Equal(t, Wait, verdict(other), "gone in between begins anew")
}

// Nothing is ever destroyed beyond the two rules, nothing of the pool's own at
// all, and never at the first sight for want of a record alone.
func TestNothingIsDestroyedBeyondTheTwoRules(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		pick := func(name string, from ...string) string { return rapid.SampledFrom(from).Draw(t, name) }
		live := map[vm.ID]string{"m0": "i0"}
		held := map[string]uint64{"k0": 5}
		alive := map[string]bool{"dead": false, "live": true}
		v := view(live, held, alive)
		var s Sightings
		seen := map[vm.ID]string{}
		for range rapid.IntRange(1, 4).Draw(t, "rounds") {
			var list []vm.Info
			for n := range rapid.IntRange(0, 4).Draw(t, "machines") {
				list = append(list, vm.Info{ID: vm.ID(fmt.Sprintf("m%d", n)), Owner: vm.Owner{
					Store: pick("store", "", "s1", "s2"), Pool: pick("pool", "", "p", "q"), Slot: pick("slot", "", "k0", "k1"),
					Incarnation: pick("incarnation", "i0", "i1"), Lock: pick("lock", "", "dead", "live", "?"),
					Token: rapid.Uint64Range(0, 9).Draw(t, "token"),
				}})
			}
			now := map[vm.ID]string{}
			for _, f := range s.Judge(list, v) {
				o := f.Info.Owner
				mine := live[f.Info.ID] == o.Incarnation
				dead := o.Lock == "dead"
				now[f.Info.ID] = o.Incarnation
				ruleA := o.Store == "s1" && o.Slot != ""
				switch f.Verdict {
				case Destroy:
					a := ruleA && o.Slot == "k0" && o.Token < 5
					b := o.Pool == "p" && dead
					if mine || !a && !b {
						t.Fatalf("destroys %+v: %s", f.Info, f.Reason)
					}
				case Claim:
					if mine || !ruleA || o.Slot == "k0" || !dead && seen[f.Info.ID] != o.Incarnation {
						t.Fatalf("claims %+v: %s", f.Info, f.Reason)
					}
				case Ours:
					if !mine {
						t.Fatalf("calls %+v its own", f.Info)
					}
				}
			}
			seen = now
		}
	})
}
