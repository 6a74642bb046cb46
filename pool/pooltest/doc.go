// Package pooltest is the glue between a pool and tests: machines that are
// released when the test ends, jobs whose infrastructure failures end the test
// at once, and, when a test failed, the console in its output and the machine
// kept for a person.
//
//	func TestMain(m *testing.M) { local.Main(); os.Exit(m.Run()) }
//
//	func TestApp(t *testing.T) {
//		guest := pooltest.Acquire(t, machines, pool.Want{Template: "base"})
//		got := pooltest.Run(t, guest, diskio.Job{Steps: diskio.Commands("app --version")})
//		if string(got.Step(0).Stdout) != "app 1.4\n" {
//			t.Errorf("got %q", got.Step(0).Stdout)
//		}
//	}
//
// It does not import testing: TB is an interface of its own, which *testing.T,
// *testing.B and others fit.
//
// With BULLPEN_HOLD=1 in the environment the machine of a test that failed is
// kept (pool.Guest.Hold), and the test's output says how to get in.
package pooltest
