module github.com/bullpen-vm/bullpen/examples/buildtest

go 1.26.0

require (
	github.com/bullpen-vm/bullpen v0.0.0-00010101000000-000000000000
	github.com/stretchr/testify v1.11.1
	// The configuration is YAML, as buildtest's. This is the YAML organisation's own
	// successor of gopkg.in/yaml.v3, which is no longer kept.
	go.yaml.in/yaml/v3 v3.0.6
)

require (
	github.com/cavaliergopher/cpio v1.0.1 // indirect
	github.com/davecgh/go-spew v1.1.1 // indirect
	github.com/google/uuid v1.6.0 // indirect
	github.com/pmezard/go-difflib v1.0.0 // indirect
	golang.org/x/sync v0.24.0 // indirect
	gopkg.in/yaml.v3 v3.0.1 // indirect
	libvirt.org/go/libvirt v1.11010.0 // indirect
	libvirt.org/go/libvirtxml v1.11010.0 // indirect
)

replace github.com/bullpen-vm/bullpen => ../..
