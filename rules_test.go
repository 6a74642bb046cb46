package bullpen_test

import (
	"bufio"
	"os"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"
)

// mayImport says which packages of the module the production files of a package
// may import. The first entry whose pattern fits counts; "x/..." is x and all
// below it. Everybody may import the leaves and its own internal packages; what is
// two folders deep may import what is below it.
var mayImport = []struct {
	who    string
	what   []string
	reason string
}{
	{"internal/...", nil, "leaves: they know nothing of the packages that share them"},
	{"vm/local/...", []string{"vm", "diskio/guest", "diskio"}, "the local machine's guest is the agent itself, on disks of diskio"},
	{"vm/...", []string{"vm"}, "drivers know the contract, not each other"},
	{"lease/...", []string{"lease"}, "stores know leases only"},
	{"scheduler/...", []string{"scheduler"}, "generic over what it schedules"},
	{"diskio/...", []string{"diskio"}, "bytes, not machines"},
	{"result/...", []string{"result"}, "encoders know reports only"},
	{"pool/runner/...", []string{"..."}, "the one place where all meet"},
	{"pool/pooltest/...", []string{"..."}, "glue for tests over the runner"},
	{"pool/...", []string{"vm", "lease", "pool/internal/..."}, "machines under leases"},
	{"examples/...", []string{"..."}, "harnesses"},
	{".", nil, "documentation"},
}

var leaves = []string{"internal/wire", "internal/atomicfile", "internal/flock"}

func fits(pattern, dir string) bool {
	if pattern == "..." {
		return true
	}
	if base, ok := strings.CutSuffix(pattern, "/..."); ok {
		return dir == base || strings.HasPrefix(dir, base+"/")
	}
	return pattern == dir
}

// top is the folder that a package's rules are about: vm, lease, pool, ...
func top(dir string) string { return strings.Split(dir, "/")[0] }

func allowed(dir, imported string) (bool, string) {
	below := strings.Contains(dir, "/") && strings.HasPrefix(imported, dir+"/")
	above := strings.Contains(imported, "/") && strings.HasPrefix(dir, imported+"/")
	own := below || above || strings.HasPrefix(imported, dir+"/internal/")
	if own || slices.Contains(leaves, imported) || strings.HasPrefix(imported, top(dir)+"/internal/") {
		return true, ""
	}
	for _, rule := range mayImport {
		if !fits(rule.who, dir) {
			continue
		}
		return slices.ContainsFunc(rule.what, func(p string) bool { return fits(p, imported) }), rule.reason
	}
	return false, "it has no entry in mayImport"
}

func TestPackagesImportOnlyWhatTheirPlaceAllows(t *testing.T) {
	t.Parallel()
	for _, s := range allSources(t) {
		if s.test() || s.nested {
			continue
		}
		for _, imported := range s.imports() {
			below, ok := strings.CutPrefix(imported, modulePath)
			if !ok {
				continue
			}
			below = strings.TrimPrefix(below, "/")
			if below == "" {
				below = "."
			}
			if ok, reason := allowed(s.dir, below); !ok {
				t.Errorf("%s imports %s: %s", s.path, below, reason)
			}
		}
	}
}

func TestTheImportRulesRefuseWhatTheyShould(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		who, what string
		want      bool
	}{
		{"vm", "lease", false}, {"lease", "vm", false}, {"scheduler", "result", false}, {"result", "scheduler", false}, {"diskio", "vm", false},
		{"vm/fake", "vm", true}, {"vm/fake", "vm/local", false}, {"vm/local", "diskio/guest", true}, {"vm/local", "diskio", true}, {"vm/local", "lease", false}, {"vm/fake", "diskio/guest", false},
		{"pool", "vm", true}, {"pool", "lease", true}, {"pool", "diskio", false}, {"pool", "pool/internal/queue", true}, {"pool", "pool/runner", false},
		{"pool/runner", "result/junit", true}, {"pool/internal/queue", "vm", true}, {"result/junit", "result", true}, {"result/junit", "result/html", false},
		{"internal/wire", "vm", false}, {"vm", "internal/wire", true}, {"vm", "internal/need", false}, {"newcomer", "vm", false}, {"diskio/guest", "diskio", true},
		{"examples/minimal", "pool/runner", true}, {"vm", "vm/vmtest", false}, {"vm", "vm/fake", false}, {"diskio", "diskio/guest", false}, {"diskio", "diskio/internal/ext4", true},
		{"diskio/guest", "diskio/internal/ext4", true}, {"vm/libvirt", "vm/libvirt/internal/xml", true}, {"diskio/guest", "diskio/guest/initramfs", true}, {"diskio/guest/boot", "diskio/guest", true}, {"diskio/guest/boot", "vm", false},
	} {
		if got, _ := allowed(row.who, row.what); got != row.want {
			t.Errorf("%s imports %s: allowed is %v, want %v", row.who, row.what, got, row.want)
		}
	}
}

// conformance suites are for tests: they may import testing.
var conformance = []string{"vm/vmtest", "lease/leasetest"}

// What has no place in a user's program.
var testOnly = []string{"testing", "flag", "github.com/stretchr/testify", "pgregory.net/rapid", "go.uber.org/goleak"}

func testOnlyImport(imported string) bool {
	return slices.ContainsFunc(testOnly, func(p string) bool { return imported == p || strings.HasPrefix(imported, p+"/") })
}

func TestProductionPackagesBringNoTestCodeIntoPrograms(t *testing.T) {
	t.Parallel()
	for _, s := range allSources(t) {
		if s.test() || s.nested || slices.Contains(conformance, s.dir) {
			continue
		}
		for _, imported := range s.imports() {
			if imported == "flag" && s.file.Name.Name == "main" {
				continue
			}
			if testOnlyImport(imported) || slices.Contains(conformance, strings.TrimPrefix(imported, modulePath+"/")) {
				t.Errorf("%s imports %s", s.path, imported)
			}
		}
	}
}

// The same through everything that they import, the standard library included:
// net/http/httptest, say, brings in flag.
func TestNothingThatIsImportedBringsInTestingEither(t *testing.T) {
	t.Parallel()
	var packages []string
	for _, s := range allSources(t) {
		name := path.Join(modulePath, s.dir)
		if s.production() && !slices.Contains(conformance, s.dir) && !slices.Contains(packages, name) {
			packages = append(packages, name)
		}
	}
	command := exec.CommandContext(t.Context(), "go", append([]string{"list", "-e", "-deps", "-f", "{{.ImportPath}}"}, packages...)...)
	command.Env = append(os.Environ(), "GOPROXY=off")
	out, err := command.Output()
	if err != nil {
		t.Skipf("go list does not work here (%v): run with the go command in PATH and the modules in the cache", err)
	}
	for imported := range strings.Lines(string(out)) {
		if imported = strings.TrimSpace(imported); testOnlyImport(imported) {
			t.Errorf("%s comes with the production packages: go mod why -m, or go list -deps, shows how", imported)
		}
	}
}

// direct are all direct requirements of the root module. A new one is a decision
// that is made here, with its reason.
var direct = map[string]string{
	"github.com/cavaliergopher/cpio": "diskio/guest/initramfs: the ramdisk's format, outside what Bullpen is for",
	"github.com/google/uuid":         "ids of runs, requests, leases and machines",
	"github.com/stretchr/testify":    "tests only: require and assert",
	"go.uber.org/goleak":             "tests only: no goroutine is left",
	"golang.org/x/sync":              "errgroup, semaphore, singleflight",
	"libvirt.org/go/libvirt":         "vm/libvirt, behind a build tag",
	"libvirt.org/go/libvirtxml":      "vm/libvirt: the domain's description, typed",
	"pgregory.net/rapid":             "tests only: models",
}

// testRequirements are those of direct that only test files may import.
var testRequirements = []string{"github.com/stretchr/testify", "go.uber.org/goleak", "pgregory.net/rapid"}

// requirements reads a go.mod: each required module, and whether it is marked
// as indirect.
func requirements(t *testing.T, file string) map[string]bool {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	required := map[string]bool{}
	inside := false
	for scanner := bufio.NewScanner(f); scanner.Scan(); {
		line, comment, _ := strings.Cut(scanner.Text(), "//")
		fields := strings.Fields(line)
		switch {
		case len(fields) == 2 && fields[0] == "require" && fields[1] == "(":
			inside = true
			continue
		case len(fields) == 1 && fields[0] == ")":
			inside = false
			continue
		case len(fields) == 3 && fields[0] == "require":
			fields = fields[1:]
		case !inside || len(fields) != 2:
			continue
		}
		required[fields[0]] = strings.Contains(comment, "indirect")
	}
	return required
}

func TestTheDirectRequirementsAreThoseThatWereDecidedOn(t *testing.T) {
	t.Parallel()
	required := requirements(t, "go.mod")
	used := map[string]string{}
	for _, s := range allSources(t) {
		if s.nested {
			continue
		}
		for _, imported := range s.imports() {
			first, _, _ := strings.Cut(imported, "/")
			if !strings.Contains(first, ".") || imported == modulePath || strings.HasPrefix(imported, modulePath+"/") {
				continue
			}
			module := imported
			for module != "." && module != "/" {
				if _, ok := required[module]; ok {
					break
				}
				module = path.Dir(module)
			}
			if module == "." || module == "/" {
				t.Errorf("%s imports %s, which no module in go.mod provides", s.path, imported)
				continue
			}
			used[module] = s.path
			if direct[module] == "" {
				t.Errorf("%s imports %s: a new direct requirement needs a reason in the table of this test", s.path, imported)
			}
			if !s.test() && slices.Contains(testRequirements, module) && !slices.Contains(conformance, s.dir) {
				t.Errorf("%s imports %s, which is for tests", s.path, imported)
			}
		}
	}
	for module, indirect := range required {
		switch by := used[module]; {
		case by == "" && !indirect:
			t.Errorf("go.mod requires %s directly, and nothing imports it", module)
		case by != "" && indirect:
			t.Errorf("go.mod marks %s as indirect, and %s imports it", module, by)
		}
	}
	if _, ok := required["toolchain"]; ok {
		t.Error("go.mod names a toolchain")
	}
}
