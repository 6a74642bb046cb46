#!/bin/bash
# Makes the images kernel-*.img.gz and what a kernel reads in them, kernel-*.txt.
# Needs root, loop devices, e2fsprogs and python3. The images that are here were
# made by Linux 6.18 and e2fsprogs 1.47.0.
#
# dirty-* were copied while they were mounted: their journals must be replayed.
# The lists come from a kernel that did.
set -e
cd "$(dirname "$0")"
at=$(mktemp -d)
live=$(mktemp)
trap 'umount "$at" 2>/dev/null; rm -rf "$at" "$live" "$live.copy"' EXIT

list() { # what is in $at: kind, path, then size and digest or target
	(cd "$at" && python3 - <<'P'
import os, hashlib
for base, dirs, files in os.walk(b"."):
    dirs.sort()
    for n in dirs + files:
        p = os.path.join(base, n); q = p[2:].decode("utf-8", "surrogateescape")
        if os.path.islink(p): print("link", q, os.readlink(p).decode())
        elif os.path.isdir(p): print("folder", q)
        elif os.path.isfile(p):
            b = open(p, "rb").read(); print("file", q, len(b), hashlib.sha256(b).hexdigest())
        else: print("other", q)
P
	) | LC_ALL=C sort
}

start() { # size, mke2fs options, mount options
	rm -f "$live"; truncate -s "$1" "$live"; mke2fs -q -F $2 "$live"; mount -o "loop$3" "$live" "$at"
}

keep() { # name
	gzip -9n <"$1" >"$2.img.gz"
}

fill() {
	mkdir -p "$at/dir/sub" "$at/many"
	for i in $(seq 1 200); do echo "content $i" >"$at/dir/f$i"; done
	for i in $(seq 1 "$1"); do : >"$at/many/a-rather-long-name-to-fill-the-folder-$i"; done
	for i in $(seq 1 100); do seq 1 900; done >"$at/numbers"
	python3 - "$at" <<'P'
import os, sys
at = sys.argv[1]
with open(at + "/fragmented", "wb") as f:
    for i in range(1500):
        f.seek(i * 8192); f.write(b"%d" % i * 300)
with open(at + "/hole-at-end", "wb") as f:
    f.write(b"x" * 5000); f.truncate(3 << 20)
with open(at + "/far", "wb") as f:
    f.seek(70 << 20); f.write(b"far away")
fd = os.open(at + "/preallocated", os.O_RDWR | os.O_CREAT)
try: os.posix_fallocate(fd, 0, 200000)
except OSError: pass
os.pwrite(fd, b"written", 100000)
P
	ln -s short "$at/link"; ln -s "$(printf 'y%.0s' $(seq 1 100))" "$at/longlink"; ln -s "$(printf 'z%.0s' $(seq 1 900))" "$at/verylonglink"
	ln "$at/numbers" "$at/dir/again"; mkfifo "$at/fifo"; mknod "$at/null" c 1 3
	rm "$at"/dir/f1??; mv "$at/dir/f7" "$at/many/moved"
	printf 'grüße' >"$at/grüße"; : >"$at/$(printf 'n%.0s' $(seq 1 255))"
	for i in $(seq 1 20); do head -c $((i * 9)) /etc/services >"$at/small$i"; done
}

clean() { # name, size, mke2fs options, files in the large folder
	start "$2" "$3" ""
	fill "$4"; list | gzip -9n >"$1.txt.gz"; umount "$at"
	e2fsck -fn "$live" >/dev/null; keep "$live" "$1"
}

dirty() { # name, size, mke2fs options, mount options
	start "$2" "$3" ",commit=300$4"
	mkdir -p "$at/dir/sub"
	for i in $(seq 1 200); do echo "content $i" >"$at/dir/f$i"; done
	printf '\xc0\x3b\x39\x98 looks like the journal' >"$at/escaped"; for i in $(seq 1 60); do seq 1 900; done >"$at/numbers"
	sync
	rm "$at"/dir/f1??; mkdir "$at/new"; for i in $(seq 1 30); do echo n$i >"$at/new/n$i"; done
	mv "$at/numbers" "$at/new/moved"; rm -rf "$at/dir/sub"; ln -s "$(printf 'y%.0s' $(seq 1 100))" "$at/longlink"
	python3 -c "open('$at/sparse', 'wb').truncate(5000000)"
	sync
	printf '\xc0\x3b\x39\x98 again' >"$at/escaped"; python3 -c "import os; os.fsync(os.open('$at/escaped', os.O_RDWR))"
	echo "not committed" >"$at/late"
	cp --sparse=always "$live" "$live.copy"
	umount "$at"
	keep "$live.copy" "$1"
	mount -o loop "$live.copy" "$at"; list | gzip -9n >"$1.txt.gz"; umount "$at"
}

clean kernel-ext4-1k 40M "-t ext4 -b 1024 -O inline_data" 3000
clean kernel-ext4-4k 40M "-t ext4 -b 4096" 1500
clean kernel-ext2-1k 40M "-t ext2 -b 1024" 800
clean kernel-ext3-2k-nofiletype 40M "-t ext3 -b 2048 -O ^filetype,^dir_index" 300
clean kernel-bigalloc 64M "-t ext4 -O bigalloc -C 16384" 300
clean kernel-metabg 64M "-t ext4 -b 1024 -O meta_bg,^resize_inode -I 128" 300
clean kernel-sparse2 64M "-t ext4 -b 1024 -O sparse_super2,metadata_csum_seed,large_dir,ea_inode" 300
dirty dirty-csum3 24M "-t ext4" ""
dirty dirty-data-1k 24M "-t ext4 -b 1024" ",data=journal"
dirty dirty-ext3-data 24M "-t ext3 -b 1024" ",data=journal"
dirty dirty-csum1 24M "-t ext4 -O ^metadata_csum,^64bit" ",journal_checksum,data=journal"
