// Package tsc measures how fast this computer's time stamp counter counts.
//
// A guest that QEMU emulates reads the same counter, and finds out its rate at
// boot by the emulated timer chip. On a busy host that goes wrong at times: a
// kernel was seen to take 510 MHz for 2596 ("PIT calibration deviates from
// HPET", arch/x86/kernel/tsc.c), and its clock then runs five times too fast. A
// guest that is told the rate (tsc_early_khz=) has nothing to find out.
package tsc
