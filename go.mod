module github.com/bullpen-vm/bullpen

go 1.26.0

require (
	github.com/cavaliergopher/cpio v1.0.1
	github.com/google/uuid v1.6.0
	github.com/stretchr/testify v1.11.1
	go.uber.org/goleak v1.3.0
	golang.org/x/sync v0.24.0
	libvirt.org/go/libvirt v1.11010.0 // the module path of github.com/libvirt/libvirt-go-module
	libvirt.org/go/libvirtxml v1.11010.0
	pgregory.net/rapid v1.3.0
)

require (
	github.com/davecgh/go-spew v1.1.1 // indirect
	github.com/pmezard/go-difflib v1.0.0 // indirect
	gopkg.in/yaml.v3 v3.0.1 // indirect
)
