module github.com/bullpen-vm/bullpen/internal/peerbench

go 1.26.0

require (
	github.com/bullpen-vm/bullpen v0.0.0
	github.com/jackc/puddle/v2 v2.2.3
	golang.org/x/sync v0.24.0
)

require github.com/google/uuid v1.6.0 // indirect

replace github.com/bullpen-vm/bullpen => ../..
