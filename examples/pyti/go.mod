// A module of its own, for it takes three libraries that the library itself has no use for:
// gopkg.in/ini.v1 reads the configuration, go-pep440-version orders versions as PEP 440 wants
// it, and golang.org/x/net/html reads the pages of a package index. Each is kept well, and each is
// used in one file.
module github.com/bullpen-vm/bullpen/examples/pyti

go 1.26.0

require (
	github.com/aquasecurity/go-pep440-version v0.0.1
	github.com/bullpen-vm/bullpen v0.0.0-00010101000000-000000000000
	github.com/stretchr/testify v1.11.1
	golang.org/x/net v0.61.0
	gopkg.in/ini.v1 v1.67.3
	pgregory.net/rapid v1.3.0
)

require (
	github.com/aquasecurity/go-version v0.0.1 // indirect
	github.com/cavaliergopher/cpio v1.0.1 // indirect
	github.com/davecgh/go-spew v1.1.1 // indirect
	github.com/google/uuid v1.6.0 // indirect
	github.com/pmezard/go-difflib v1.0.0 // indirect
	golang.org/x/sync v0.24.0 // indirect
	golang.org/x/xerrors v0.0.0-20231012003039-104605ab7028 // indirect
	gopkg.in/yaml.v3 v3.0.1 // indirect
	libvirt.org/go/libvirt v1.11010.0 // indirect
	libvirt.org/go/libvirtxml v1.11010.0 // indirect
)

replace github.com/bullpen-vm/bullpen => ../..
