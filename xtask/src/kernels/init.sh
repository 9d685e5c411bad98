#!/bin/busybox sh
# Process 1 of the virtual machine: mounts what the tests expect of a machine, runs them, says how
# they ended and switches off. The lines that begin with "holdfast-vm:" are read outside.
export PATH=/bin HOME=/tmp RUST_BACKTRACE=1
/bin/busybox --install -s /bin

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /tmp
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup2 /sys/fs/cgroup
ip link set lo up

echo "holdfast-vm: kernel $(uname -r)"
# One test at a time: a machine emulated in software has no time to spare. The machine outlives a
# hanging test by nothing, whatever happens to the process that started it.
timeout -k 5 "$HOLDFAST_TIMEOUT" /kernel-tests --test-threads=1 --show-output $HOLDFAST_TESTS
echo "holdfast-vm: tests ended with status $?"
poweroff -f
