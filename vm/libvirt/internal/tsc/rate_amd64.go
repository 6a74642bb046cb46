package tsc

const present = true

// read gives the counter (RDTSC).
func read() uint64
