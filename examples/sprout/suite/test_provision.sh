test_start() { # vsphere55 vsphere55-nested rhv41
	echo "starts on $1"
	test -n "$1"
}

test_stop() { # vsphere55 vsphere55-nested rhv41
	echo "stops on $1"
	test -n "$1"
}
