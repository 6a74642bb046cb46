package diskio_test

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/bullpen-vm/bullpen/diskio"
)

// The host writes a job disk, a guest records what it did, and the host reads
// it back.
func ExampleWriteJob() {
	ctx := context.Background()
	disk, err := os.CreateTemp("", "job")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.Remove(disk.Name())
	defer disk.Close()

	parts := []diskio.Part{{ID: "greet", Job: diskio.Job{Steps: diskio.Commands("cat greeting"),
		Files: []diskio.File{{Path: "greeting", Data: []byte("good day\n")}}}}}
	size, err := diskio.JobSize(parts)
	if err != nil {
		fmt.Println(err)
		return
	}
	ticket, err := diskio.WriteJob(ctx, disk, size, parts, nil)
	if err != nil {
		fmt.Println(err)
		return
	}

	// A guest does this; guest.Agent is one.
	job, err := diskio.OpenJob(disk, size, ticket.Nonce)
	if err != nil {
		fmt.Println(err)
		return
	}
	greeting, _ := io.ReadAll(job.File(job.Parts()[0].Files[0]))
	record, err := diskio.NewRecorder(disk, job, disk.Sync, "example", "")
	if err != nil {
		fmt.Println(err)
		return
	}
	record.PartBegin(0)
	record.StepBegin(0, 0)
	record.Output(0, 0, diskio.Stdout, 0, greeting)
	record.StepEnd(0, 0, diskio.StepEnd{Stdout: int64(len(greeting))})

	crashed, err := diskio.ReadResults(ctx, disk, size, ticket, nil)
	fmt.Println("in between:", err, crashed.Complete, crashed.Parts[0].OK())

	record.PartEnd(0)
	if err := record.Finish(); err != nil { // of all calls before, too
		fmt.Println(err)
		return
	}
	results, err := diskio.ReadResults(ctx, disk, size, ticket, nil)
	fmt.Println("at the end:", err, results.Complete, results.Parts[0].OK())
	fmt.Printf("%s: %s", results.Parts[0].Steps[0].Name, results.Parts[0].Steps[0].Stdout)
	// Output:
	// in between: <nil> false false
	// at the end: <nil> true true
	// cat greeting: good day
}
