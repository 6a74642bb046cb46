package boot

// sysFinitModule is finit_module(2), which package syscall does not name.
const sysFinitModule = 273
